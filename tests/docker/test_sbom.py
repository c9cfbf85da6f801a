"""`make sbom` lists every package of the images' locks."""

import json
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import run_module


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_the_list_has_every_package_of_the_lock_with_its_hashes(tmp_path: Path, kind: str) -> None:
    lock, out = ROOT / f"docker/requirements.{kind}.lock", tmp_path / "sbom.json"
    run_module(ROOT, "cyclonedx_py", "requirements", str(lock), "--output-file", str(out))
    listed = {part["name"]: part for part in json.loads(out.read_text())["components"]}
    locked = re.findall(r"^([A-Za-z0-9._-]+)(?:\\[.*\\])?==", lock.read_text(), re.MULTILINE)
    assert set(locked) == set(listed)
