"""Commands of the documentation that take long, in their smallest form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from tests.conftest import Api, photo_folder
from tests.soak import overload
from tests.soak.overload import Overload
from training.data import Sample


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, as --data takes it: four classes of eight."""
    return photo_folder(tmp_path_factory.mktemp("photos"), ("crab", "cup", "dolphin", "lotus"), 8)


@pytest.mark.parametrize(
    ("protocol", "more", "shots"),
    [
        ("base-to-novel", ["--methods", "zero-shot,lp++"], {"4"}),
        ("few-shot", ["--methods", "zero-shot,tip-adapter-f"], {"1", "4"}),
        ("cross-dataset", ["--methods", "zero-shot,lp++"], {"4"}),
        ("domain-generalization", ["--methods", "zero-shot,lp++"], {"4"}),
    ],
)
def test_a_protocol_prints_a_table_or_json_and_draws_a_picture(
    photos: Path, tmp_path: Path, protocol: str, more: list[str], shots: set[str]
) -> None:
    command = ["evaluate", protocol, "--data", str(photos), *more]
    if protocol in ("cross-dataset", "domain-generalization"):
        command += ["--target", str(photos)]
    command += ["--seeds", "1,2", "--shots", ",".join(sorted(shots))]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert {str(result["shots"]) for result in results} == shots
    for result in results:
        low, high = result["base_ci"]
        assert 0 <= low <= result["base"] <= high <= 1
        assert result["method"] in more[1].split(",")
        assert (result["novel"] is not None) == (protocol == "base-to-novel")
    picture = tmp_path / "results.png"
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*command, "--plot", str(picture)])
    assert shown.exit_code == 0, shown.output
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert all(result["method"] in shown.stdout for result in results)


def run(folder: Path, *command: str) -> str:
    """What a module prints, run in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_of_the_benchmark_is_printed_and_saved_with_both_its_sides(tmp_path: Path) -> None:
    shown = run(tmp_path, "tests.benchmarks", "publish")
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"machine", "device", "rows"} == saved.keys()
    (row,) = saved["rows"]
    assert row["name"] == "publish_to_first_answer" and row["unit"] == "ms" and row["ours"] > 0
    assert row["name"] in shown


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("tests.benchmarks.profile", "the whole request"),
        ("tests.benchmarks.sizing", "requests to the blob store"),
    ],
)
def test_what_is_measured_beside_the_benchmark_can_be(
    tmp_path: Path, module: str, says: str
) -> None:
    assert says in run(tmp_path, module)


def test_ten_times_the_capacity_is_refused_in_part_and_each_refusal_says_when_to_come_again(
    api: Api, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak` does so for half an hour, and also holds the waiting times and memory."""
    shorter = {"_STEP": 1.0, "_OVERLOAD": 6.0, "_RECOVERED": 2.0}
    for name, seconds in shorter.items():
        monkeypatch.setattr(overload, f"{name}_SECONDS", seconds)
    load = Overload(api.url, os.getpid(), api.new_tenant(), samples[:32])
    report = load.run(2.0)
    assert report["losses"] == []
    assert report["overload, by status"][200] and report["overload, by status"][429]
