"""Commands of the documentation that take long, in their smallest form."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from tests.support.paths import ROOT, SHARED
from tests.support.photos import coop_layout, photo_folder, shared_file
from tests.support.processes import run_module


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


def test_the_papers_table_has_a_row_a_data_set_and_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    for folder in ("caltech-101", "dtd"):
        coop_layout(tmp_path / folder, ("crab", "cup", "dolphin", "lotus"))
    output = tmp_path / "paper.jsonl"
    command = ["evaluate", "paper", "--data", str(tmp_path), "--output", str(output)]
    command += ["--methods", "zero-shot,rmadapter", "--seeds", "1", "--shots", "2"]
    command += ["--model", "bundled"]
    whole = CliRunner().invoke(app, command)
    assert whole.exit_code == 0, whole.output
    first, _ = output.read_text().splitlines()
    output.write_text(first + "\n")
    again = CliRunner().invoke(app, command)
    assert again.stdout == whole.stdout
    assert output.read_text().splitlines()[0] == first
    assert json.loads(output.read_text().splitlines()[1])["data_set"] == "dtd"
    shown = [line for line in whole.stdout.splitlines() if "paper: " in line]
    assert [line.split()[0] for line in shown] == ["Caltech101", "DTD"]
    assert shown[0].endswith("98.40 / 94.27 / 96.29")


def test_a_row_of_the_benchmark_is_printed_and_saved_with_both_its_sides(tmp_path: Path) -> None:
    shown = run_module(tmp_path, "tests.benchmarks", "publish")
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"machine", "device", "rows"} == saved.keys()
    (row,) = saved["rows"]
    assert row["name"] == "publish_to_first_answer" and row["unit"] == "ms" and row["ours"] > 0
    assert row["name"] in shown


@pytest.mark.parametrize(
    ("command", "says", "needs"),
    [
        ("tests.benchmarks.profile", "the whole request", []),
        ("tests.benchmarks.sizing", "requests to the blob store", []),
        ("tests.benchmarks.pixels --rounds 1", "peak MB", ["caltech101.zip"]),
        (
            "tests.benchmarks.gradient_scaling --sets photo --variants zero-shot --seeds 1",
            "zero-shot",
            ["pacs_photo.zip"],
        ),
        (
            f"training.search --data {SHARED} --sets sketch --only frozen",
            "the frozen CLIP",
            ["pacs_sketch.zip"],
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_is_measured_beside_the_benchmark_can_be(
    tmp_path: Path, command: str, says: str, needs: list[str]
) -> None:
    for archive in needs:
        shared_file(archive)
    assert says in run_module(tmp_path, *command.split())


def test_mixed_lists_are_reported_by_names_and_photos(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "some", ("crab", "cup", "dolphin", "lotus"), 18)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for photo in sorted(folder.glob("*/*")):
            archive.write(photo, photo.relative_to(folder))
    command = ["training.protocols.mixed", "--data", str(tmp_path), "--sets", "some"]
    *_, row = run_module(tmp_path, *command).strip().splitlines()
    name, count, _, *figures = row.split()
    assert (name, count) == ("some", "1")  # of four classes, two have photos
    assert len(re.findall(r"\d+\.\d \(", " ".join(figures))) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would measure for an hour")
def test_make_gpu_without_one_says_so_and_what_says_more() -> None:
    where = f"BIN={Path(sys.executable).parent}"
    make = ["make", "--silent", "--assume-old=setup", "gpu", where]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "sees no GPU" in done.stderr and "rmadapter doctor" in done.stderr
