"""What other tools keep is read as they keep it, and what cannot be fitted is left out and told."""

import json
from pathlib import Path

import pytest

from service.cli.importers import (
    BadImport,
    from_coco,
    from_csv,
    from_custom_vision,
    from_folder,
)

PICTURE = b"\xff\xd8\xff\xe0"  # how a JPEG starts


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)


def names(labelled) -> dict[str, list[str]]:
    return {label: [f.name for f in files] for label, files in labelled.classes.items()}


def test_a_folders_name_is_the_class_of_its_photos(tmp_path: Path) -> None:
    touch(tmp_path, "rose/1.jpg", "rose/deep/2.PNG", "tulip/3", "4.jpg")
    (tmp_path / "rose" / "notes.jpg").write_bytes(b"no picture")
    found = from_folder(tmp_path)
    assert names(found) == {"rose": ["1.jpg"], "deep": ["2.PNG"], "tulip": ["3"]}
    assert dict(found.left_out) == {
        "4.jpg": "it is in no class's folder",
        "rose/notes.jpg": "not a picture by its content",
    }


def test_a_csv_names_photos_from_its_own_place(tmp_path: Path) -> None:
    touch(tmp_path, "pictures/a.jpg", "pictures/b.jpg")
    file = tmp_path / "labels.csv"
    file.write_text(
        "\ufeffpath,kind,note\npictures/a.jpg,rose,x\n"
        'pictures/b.jpg,"tulip, red",\npictures/c.jpg,rose,\n,rose,\npictures/a.jpg,,\n'
    )
    found = from_csv(file, "path", "kind")
    assert names(found) == {"rose": ["a.jpg"], "tulip, red": ["b.jpg"]}
    assert [where for where, _ in found.left_out] == [f"labels.csv line {n}" for n in (4, 5, 6)]
    assert "there is no file" in found.left_out[0][1]
    assert found.left_out[1][1] == "nothing in column path"
    assert found.left_out[2][1] == "it has no class"


def test_a_csv_without_the_column_says_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,class\n")
    with pytest.raises(BadImport, match=r"no column image, label; its columns: file, class"):
        from_csv(tmp_path / "a.csv", "image", "label")


def test_a_coco_photo_has_the_class_on_which_its_annotations_agree(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg", "2.jpg", "3.jpg", "4.jpg")
    file = tmp_path / "instances.json"
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(1, 6)]
    labels = [(1, 7), (1, 7), (2, 8), (3, 7), (3, 8), (5, 7)]
    file.write_text(
        json.dumps(
            {
                "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
                "annotations": [{"image_id": i, "category_id": c, "bbox": []} for i, c in labels],
                "images": images,
            }
        )
    )
    found = from_coco(file)
    assert names(found) == {"cat": ["1.jpg"], "dog": ["2.jpg"]}
    reasons = dict(found.left_out)
    assert reasons["3.jpg"] == "it has several classes: cat, dog"
    assert reasons["4.jpg"] == "it has no class"
    assert "there is no file" in reasons["5.jpg"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_custom_vision_project_is_its_images_by_id_and_their_tags(
    tmp_path: Path, wrapped: bool
) -> None:
    first = "0a1b2c3d-0000-4000-8000-000000000001"
    touch(tmp_path, f"images/{first}.jpg", "images/two.png", "three.jpg")
    images = [
        {"id": first, "width": 9, "tags": [{"tagId": "t", "tagName": "Hemlock"}]},
        {"id": "two", "tags": [{"tagName": "Hemlock"}, {"tagName": "Cherry"}]},
        {"id": "x", "fileName": "three.jpg", "tags": [{"tagName": "Cherry"}]},
        {"id": "four", "tags": [{"tagName": "Cherry"}]},
        {"id": "five", "tags": None},
    ]
    document = {"images": images} if wrapped else images
    (tmp_path / "tagged.json").write_text(json.dumps(document))
    (tmp_path / "tagged-2.json").write_text(json.dumps(images[:1]))  # pages may overlap
    found = from_custom_vision(tmp_path)
    assert names(found) == {"Hemlock": [f"{first}.jpg"], "Cherry": ["three.jpg"]}
    reasons = {where.split(": ")[1]: why for where, why in found.left_out}
    assert reasons["two"] == "it has several classes: Cherry, Hemlock"
    assert "there is no file" in reasons["four"]
    assert reasons["five"] == "it has no class"


def test_a_custom_vision_folder_without_json_is_a_folder_a_tag(tmp_path: Path) -> None:
    touch(tmp_path, "Hemlock/1.jpg")
    assert names(from_custom_vision(tmp_path)) == {"Hemlock": ["1.jpg"]}


@pytest.mark.parametrize("content", ["{", "3", '{"a": 1}', "[1]"])
@pytest.mark.parametrize("read", [from_coco, from_custom_vision])
def test_what_is_of_another_kind_is_refused_by_its_name(tmp_path: Path, content, read) -> None:
    file = tmp_path / "odd.json"
    file.write_text(content)
    with pytest.raises(BadImport, match=r"odd\.json"):
        read(file)


@pytest.mark.parametrize("read", [from_coco, from_custom_vision, from_folder])
def test_what_is_not_there_is_refused_by_its_name(tmp_path: Path, read) -> None:
    with pytest.raises(BadImport, match="nowhere"):
        read(tmp_path / "nowhere")


def test_custom_visions_tags_keep_their_ids_where_they_are_uuids(tmp_path: Path) -> None:
    touch(tmp_path, "one.jpg", "two.jpg", "three.jpg")
    tag = "0A1B2C3D-0000-4000-8000-000000000001"
    images = [
        {"id": "one", "tags": [{"tagId": tag, "tagName": " Hemlock  tree "}]},
        {"id": "two", "tags": [{"tagId": "no uuid", "tagName": "Cherry"}]},
        {"id": "three", "tags": [{"tagId": None, "tagName": "Cherry"}]},
    ]
    (tmp_path / "tagged.json").write_text(json.dumps(images))
    assert from_custom_vision(tmp_path).tags == {"Hemlock tree": tag.lower()}
