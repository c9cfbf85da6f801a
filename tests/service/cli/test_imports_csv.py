"""A table is read by its content: encoding, delimiter and header are what it has."""

from pathlib import Path

import pytest
from PIL import Image

from service.cli.importers import BadImport, Labelled, from_csv


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "Käfer.jfif", "sub/c", "images/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, "JPEG")
    return tmp_path


def taken(found: Labelled) -> dict[str, list[str]]:
    return {label: [photo.path.name for photo in photos] for label, photos in found.classes.items()}


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["image{0}label", "Label{0}IMAGE ", "note{0} Image{0}LABEL", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_same_photos_come_of_every_way_to_write_a_table(
    folder: Path, encoding: str, delimiter: str, header: str, end: str
) -> None:
    names = [name.strip().casefold() for name in (header or "image{0}label").split("{0}")]
    rows = [("a.jpg", "Löwenzahn"), ("Käfer.jfif", "rose, red"), ("sub/c", "rose, red")]
    lines = [header.format(delimiter)] if header else []
    for image, label in rows:
        cells = {"image": image, "label": label, "note": "x"}
        lines.append(delimiter.join(f'"{cells[name]}"' for name in names))
    (folder / "t.csv").write_bytes((end.join(lines) + end).encode(encoding))
    found = from_csv(folder / "t.csv")
    assert taken(found) == {"Löwenzahn": ["a.jpg"], "rose, red": ["Käfer.jfif", "c"]}
    assert found.left_out == []


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nimage;label\na.jpg;rose\n",  # Excel
        "image;label\na.jpg;rose, red and white, large\n".replace(
            "rose, red and white, large", "rose"
        ),
        "a.jpg,rose\n",
        "rose,a.jpg\n",
        "rose;images\\d.jpg\na;.\\a.jpg\n",
        "missing.jpg,rose\na.jpg,rose\n",
    ],
)
def test_a_table_without_a_header_is_known_by_its_photos(folder: Path, text: str) -> None:
    (folder / "t.csv").write_text(text)
    assert "rose" in from_csv(folder / "t.csv").classes


def test_commas_in_labels_are_no_delimiters_where_the_header_says_another(folder: Path) -> None:
    (folder / "t.csv").write_text("image;label\na.jpg;rose, red, large\n")
    assert taken(from_csv(folder / "t.csv")) == {"rose, red, large": ["a.jpg"]}


def test_columns_may_be_numbers(folder: Path) -> None:
    (folder / "t.csv").write_text("1,a.jpg,rose\n2,images/d.jpg,tulip\n")
    with pytest.raises(BadImport, match=r"3 columns: say which by number, as in --image 2"):
        from_csv(folder / "t.csv")
    found = from_csv(folder / "t.csv", "2", "3")
    assert taken(found) == {"rose": ["a.jpg"], "tulip": ["d.jpg"]}


def test_what_is_no_picture_is_left_out_by_its_content(folder: Path) -> None:
    (folder / "bad.jpg").write_text("<html>")
    (folder / "t.csv").write_text("image,label\nbad.jpg,rose\na.jpg,rose\n/etc/hostname,rose\n")
    found = from_csv(folder / "t.csv")
    assert taken(found) == {"rose": ["a.jpg"]}
    assert found.reasons == {"not a picture by its content": 2}
