"""`rmadapter classify`: folders and patterns in; CSV, JSON lines out; prompts of one's own."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.support.photos import photo_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twenty, a hidden file and one of text: more than one request."""
    folder = photo_folder(tmp_path / "in", ("crab", "lotus"), 20)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("no photo")
    return folder


def files_of(done) -> list[str]:
    return [result["file"] for result in json.loads(done.stdout)["results"]]


@pytest.mark.parametrize("given", ["in", "in/*/*.jpg", "in/**/*.jpg"])
def test_folders_and_patterns_are_their_photos(
    run, photos: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(photos.parent)
    done = run("classify", given, "--classes", "crab,lotus", "--json")
    assert done.exit_code == 0, done.output
    assert files_of(done) == [str(f.relative_to(photos.parent)) for f in sorted(photos.glob("*/*"))]


@pytest.mark.parametrize("given", ["empty", "in/*.jpg"])
def test_a_folder_or_pattern_without_photos_is_an_error(
    run, photos: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    done = run("classify", given, "--classes", "crab,lotus")
    assert done.exit_code == 1
    assert f"there is no photo in {given}" in done.output


def test_csv_and_json_lines_have_a_line_per_photo_and_its_error(run, photos: Path) -> None:
    broken = photos / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    arguments = ("classify", photos, "--classes", "crab,lotus", "--format")
    lines = run(*arguments, "jsonl")
    table = run(*arguments, "csv")
    assert (lines.exit_code, table.exit_code) == (1, 1)
    results = [json.loads(line) for line in lines.stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert [r["file"] for r in results] == [r["file"] for r in rows]
    assert len(rows) == 41
    for result, row in zip(results, rows, strict=True):
        assert (row["label"], row["error"]) == (result["label"] or "", result["error"] or "")
        assert bool(row["error"]) == (row["file"] == str(broken)) == (row["score"] == "")
        assert result["adapter"] is None and row["adapter"] == ""


def test_a_template_changes_the_scores(run, photos: Path) -> None:
    photo = next(photos.glob("crab/*"))
    scores = []
    for options in ([], ["--template", "a {}, no crab.", "--template", "the {}."]):
        done = run("classify", photo, "--classes", "crab,lotus", *options, "--json")
        assert done.exit_code == 0, done.output
        scores.append(json.loads(done.stdout)["results"][0]["predictions"][0]["score"])
    assert scores[0] != scores[1]
