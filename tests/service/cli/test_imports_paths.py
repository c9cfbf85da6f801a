"""A missing or odd path is a clear error, and no importer looks through the whole file system."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from service.cli.importers import BadImport, from_csv, from_folder

KINDS = ["csv", "folder", "coco", "voc", "label-studio", "huggingface", "custom-vision"]
FORMS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
runner = CliRunner()


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were looked through."""
    seen: list[str] = []
    real: Callable = os.walk

    def walk(top, *args, **kwargs):
        seen.append(str(top))
        assert str(top) != "/"
        return real(top, *args, **kwargs)

    monkeypatch.setattr(os, "walk", walk)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/nowhere", "/nowhere.json", "/nowhere/at/all", "/", "/dev/null"])
def test_a_missing_or_odd_path_is_an_error_that_names_it(
    walked: list[str], kind: str, path: str
) -> None:
    done = runner.invoke(app, ["import", kind, path])
    assert done.exit_code == 1
    assert f"error: {path}" in done.output
    assert walked == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 99, b"{", b"[[[", b"\xff\xd8\xff\xe0", b"a\n" * 9]
)
def test_a_file_of_another_kind_is_an_error_that_names_it(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    (tmp_path / "odd").write_bytes(content)
    done = runner.invoke(app, ["import", kind, str(tmp_path / "odd")], env={"COLUMNS": "300"})
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "error:" in done.output and "odd" in done.output


def test_links_are_followed_once_and_never_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "store" / "x").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "store" / "x" / "1.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "rose").symlink_to(tmp_path / "store" / "x")
    (photos / "loop").symlink_to(photos)
    (photos / "all").symlink_to("/")
    found = from_folder(photos)
    assert {label: len(files) for label, files in found.classes.items()} == {"rose": 1}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_known_by_its_content_whatever_its_name(tmp_path: Path, form: str) -> None:
    (tmp_path / "rose").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "rose" / "1.txt", form)
    (tmp_path / "rose" / "BMI.bmp").write_bytes(b"BMI of all patients\n")
    found = from_folder(tmp_path)
    assert [photo.name for photo in found.classes["rose"]] == ["1.txt"]
    assert found.left_out == [("rose/BMI.bmp", "not a picture by its content")]


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose" / "1.jpg").symlink_to("gone.jpg")
    os.mkfifo(tmp_path / "rose" / "2.jpg")
    left_out = from_folder(tmp_path).left_out
    assert [why for _, why in left_out] == ["a broken link", "no file: a pipe, socket or device"]


@pytest.mark.parametrize("written", ["KÄFER/Img_1.JPG", "Ka\u0308fer/img_1.jpg"])
def test_names_of_other_letters_cases_and_unicode_forms_are_found(
    tmp_path: Path, written: str
) -> None:
    (tmp_path / "Käfer").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "Käfer" / "img_1.jpg")
    (tmp_path / "t.csv").write_text(f"image,label\n{written},rose\n")
    assert from_csv(tmp_path / "t.csv").count == 1


def test_a_link_to_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to("/")
    with pytest.raises(BadImport, match="the whole file system"):
        from_folder(tmp_path / "all")
