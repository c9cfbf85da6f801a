"""docker/pin.sh puts the registry's digests into the files, and finds images without one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILES = ("docker-compose.yml", "docker/Dockerfile", "docker/pin.sh")
REGISTRY = """#!/bin/sh
# buildx imagetools inspect --format … IMAGE
for image; do :; done
printf 'sha256:%064d\\n' "$(printf %s "$image$RAISED" | cksum | cut -d' ' -f1)"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(REGISTRY)
    docker.chmod(0o755)
    return tmp_path


def pin(checkout: Path, *arguments: str, raised: str = "") -> "subprocess.CompletedProcess[str]":
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    command = [checkout / "docker" / "pin.sh", *arguments]
    environment = {"PATH": path, "RAISED": raised}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def images(checkout: Path) -> list[str]:
    lines = [line for name in FILES[:2] for line in (checkout / name).read_text().splitlines()]
    starts = ("image: ", "FROM ")
    named = [line.strip().split()[1] for line in lines if line.strip().startswith(starts)]
    return [name for name in named if "rmadapter:" not in name]


def test_every_image_is_pinned_and_keeps_its_tag(checkout: Path) -> None:
    before = images(checkout)
    loose = pin(checkout, "--check")
    assert loose.returncode == 1
    assert before[0] in loose.stderr
    done = pin(checkout)
    assert done.returncode == 0, done.stderr
    after = images(checkout)
    assert [image.split("@")[0] for image in after] == before
    assert all("@sha256:" in image for image in after)
    assert pin(checkout, "--check").returncode == 0


def test_a_second_run_raises_the_digests(checkout: Path) -> None:
    pin(checkout)
    first = images(checkout)
    pin(checkout)
    assert images(checkout) == first
    pin(checkout, raised="newer")
    assert all(a != b for a, b in zip(first, images(checkout), strict=True))
    assert all(image.count("@") == 1 for image in images(checkout))


def test_a_registry_that_does_not_answer_changes_nothing(checkout: Path) -> None:
    (checkout / "bin" / "docker").write_text("#!/bin/sh\necho no route >&2; exit 1\n")
    before = (checkout / FILES[0]).read_text()
    assert pin(checkout).returncode != 0
    assert (checkout / FILES[0]).read_text() == before
