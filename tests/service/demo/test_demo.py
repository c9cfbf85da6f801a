"""`make demo`: what a newcomer sees first."""

import re
import subprocess
import sys

from service.demo.__main__ import NEW_NAMES, SHOTS, split_photos


def test_no_photo_is_both_fitted_and_tested_and_new_names_are_not_fitted() -> None:
    photos = split_photos()
    fitted = {file for files in photos.fit.values() for file in files}
    tested = {file for files in photos.test.values() for file in files}
    assert not fitted & tested
    assert not set(NEW_NAMES) & set(photos.fit)
    assert {len(files) for files in photos.fit.values()} == {SHOTS}
    assert len(photos.fit) == 6 and len(photos.test) == 8


def test_the_demo_ends_well_and_the_fit_beats_zero_shot() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.demo"], capture_output=True, text=True, timeout=290
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"([\d.]+)%\s+\((\d+) of (\d+)\)", done.stdout)
    assert [int(photos) for _, _, photos in rows] == [48] * 6
    (zero_shot, _, _), (adapted, _, _) = rows[:2]
    assert float(adapted) > float(zero_shot) + 10
    for part in ("start of the service", "upload of 96 photos", "fit", "classification"):
        assert part in done.stdout
