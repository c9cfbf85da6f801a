"""`make soak` in its shortest form: fuzzing by coverage, and ten times the capacity."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.soak import overload
from tests.soak.overload import Overload
from tests.support.api import Api
from tests.support.processes import run_module
from training.data import Sample


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not here")
def test_every_reader_of_others_bytes_stands_a_moment_of_fuzzing_by_coverage(
    tmp_path: Path,
) -> None:
    """`make soak` does so for half an hour."""
    run_module(tmp_path, "tests.soak", "--only", "fuzz", "--minutes", "0.1")
    report = json.loads((tmp_path / "soak.json").read_text())["fuzz"]
    assert report["losses"] == []
    assert all(tried > 0 for tried in report["inputs tried"].values())


def test_ten_times_the_capacity_is_refused_in_part_and_each_refusal_says_when_to_come_again(
    api: Api, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak` does so for half an hour, and also holds the waiting times and memory."""
    shorter = {"STEP": 1.0, "OVERLOAD": 6.0, "RECOVERED": 2.0}
    for name, seconds in shorter.items():
        monkeypatch.setattr(overload, f"{name}_SECONDS", seconds)
    load = Overload(api.url, os.getpid(), api.new_tenant(), samples[:32])
    report = load.run(2.0)
    assert report["losses"] == []
    assert report["overload, by status"][200] and report["overload, by status"][429]
