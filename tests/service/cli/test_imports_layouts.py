"""Each tool's files in the layout that it writes: which photos, classes and boxes come of them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.cli.importers import (
    BadImport,
    Labelled,
    from_coco,
    from_custom_vision,
    from_folder,
    from_huggingface,
    from_label_studio,
    from_voc,
)


def photos(folder: Path, *names: str) -> None:
    """Real pictures, whatever their names end in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "white").save(folder / name, "JPEG")


def quarters(file: Path, size: tuple[int, int] = (64, 48)) -> None:
    """A picture of four colours: red and green above, blue and white below."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    half = (size[0] // 2, size[1] // 2)
    image.paste("red", (0, 0, *half))
    image.paste("green", (half[0], 0, size[0], half[1]))
    image.paste("blue", (0, half[1], half[0], size[1]))
    image.save(file, "PNG")


def taken(found: Labelled, folder: Path) -> dict[str, list[str]]:
    return {
        label: [str(photo.path.relative_to(folder)) for photo in photos]
        for label, photos in found.classes.items()
    }


def pixels(found: Labelled, label: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(photo.read()))) for photo in found.classes[label]]


def coco(*images: tuple[str, list[tuple[str, list[float]]]], **more: Any) -> str:
    """COCO's document with the fields that pycocotools, CVAT and FiftyOne write."""
    names = sorted({label for _, regions in images for label, _ in regions})
    annotations = [
        {
            "id": 100 * number + i,
            "image_id": number,
            "category_id": names.index(label) + 1,
            "segmentation": [],
            "area": 1.0,
            "bbox": box,
            "iscrowd": 0,
        }
        for number, (_, regions) in enumerate(images, 1)
        for i, (label, box) in enumerate(regions)
    ]
    document = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "version": ""},
        "categories": [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, 1)
        ],
        "images": [
            {"id": number, "width": 64, "height": 48, "file_name": name, "license": 0}
            for number, (name, _) in enumerate(images, 1)
        ],
        "annotations": annotations,
    }
    return json.dumps(document | more)


WHOLE = [0.0, 0.0, 64.0, 48.0]


@pytest.mark.parametrize(
    ("document", "place", "name"),
    [
        ("annotations/instances_default.json", "images/1.jpg", "1.jpg"),  # CVAT, a task
        ("annotations/instances_train.json", "images/train/a/1.jpg", "a/1.jpg"),  # CVAT, a subset
        ("annotations/instances_default.json", "images/default/1.jpg", "1.jpg"),
        ("annotations/instances_val2017.json", "val2017/000000000139.jpg", "000000000139.jpg"),
        (
            "annotations/instances_val2017.json",
            "images/val2017/000000000139.jpg",
            "000000000139.jpg",
        ),
        ("labels.json", "data/1.jpg", "1.jpg"),  # FiftyOne
        ("train/_annotations.coco.json", "train/1_jpg.rf.0a.jpg", "1_jpg.rf.0a.jpg"),  # Roboflow
        ("result.json", "images/0a1b2c3d-1.jpg", "images\\0a1b2c3d-1.jpg"),  # Label Studio, Windows
        ("instances.json", "1.jpg", "C:\\Users\\me\\Pictures\\1.jpg"),
        ("instances.json", "images/set/1.jpg", "D:\\work\\images\\set\\1.jpg"),
        ("instances.json", "1.jpg", "/home/me/pictures/1.jpg"),
        ("instances.json", "ä 1.jpg", "%C3%A4%201.jpg"),
    ],
)
@pytest.mark.parametrize("by", ["file", "folder"])
def test_coco_is_read_as_each_tool_lays_it(
    tmp_path: Path, document: str, place: str, name: str, by: str
) -> None:
    photos(tmp_path, place)
    (tmp_path / document).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / document).write_text(coco((name, [("cat", WHOLE)])))
    found = from_coco(tmp_path / document if by == "file" else tmp_path)
    assert (taken(found, tmp_path), found.left_out) == ({"cat": [place]}, [])


def test_two_subsets_of_coco_with_the_same_names_are_not_mixed_up(tmp_path: Path) -> None:
    photos(tmp_path, "train2017/1.jpg", "val2017/1.jpg", "val2017/2.jpg")
    (tmp_path / "annotations").mkdir()
    for subset, label in (("train2017", "cat"), ("val2017", "dog")):
        text = coco(("1.jpg", [(label, WHOLE)]))
        (tmp_path / "annotations" / f"instances_{subset}.json").write_text(text)
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    assert taken(from_coco(tmp_path), tmp_path) == {
        "cat": ["train2017/1.jpg"],
        "dog": ["val2017/1.jpg"],
    }


def test_one_file_is_not_taken_for_two_names_of_other_folders(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg")
    text = coco(("a/1.jpg", [("cat", WHOLE)]), ("b/1.jpg", [("dog", WHOLE)]))
    (tmp_path / "all.json").write_text(text)
    found = from_coco(tmp_path / "all.json")
    assert taken(found, tmp_path) == {"cat": ["1.jpg"]}
    assert [why.partition(":")[0] for _, why in found.left_out] == ["there is no file"]


def test_a_coco_photo_of_several_classes_is_taken_box_by_box(tmp_path: Path) -> None:
    quarters(tmp_path / "1.png")
    boxes = [("red", [0, 0, 32, 24]), ("blue", [0, 24, 32, 24]), ("red", [5, 5, 0, 9])]
    crowd = json.loads(coco(("1.png", [*boxes, ("green", [32, 0, 32, 24])])))
    crowd["annotations"][-1]["iscrowd"] = 1
    (tmp_path / "a.json").write_text(json.dumps(crowd))
    found = from_coco(tmp_path / "a.json")
    assert {label: len(photos) for label, photos in found.classes.items()} == {"red": 1, "blue": 1}
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (cut,) = pixels(found, label)
        assert cut.shape == (24, 32, 3)
        assert (cut == colour).all()
    assert found.left_out == [("1.png box 3", "its box is empty")]


VOC = """<annotation>
	<folder>VOC2012</folder>
	<filename>{name}</filename>
	<source><database>The VOC2007 Database</database></source>
	<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>red</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>32</xmax><ymax>24</ymax></bndbox>
		<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
	</object>
	<object>
		<name>green</name>
		<bndbox><xmin>33.0</xmin><ymin>1.0</ymin><xmax>64.0</xmax><ymax>24.0</ymax></bndbox>
	</object>
</annotation>"""


@pytest.mark.parametrize(
    ("document", "place", "name"),
    [
        ("Annotations/2007_000027.xml", "JPEGImages/2007_000027.jpg", "2007_000027.jpg"),
        ("Annotations/a/1.xml", "JPEGImages/a/1.jpg", "a/1.jpg"),  # CVAT, photos in folders
        ("Annotations/a/1.xml", "JPEGImages/a/1.jpg", "1.jpg"),
        ("1.xml", "1.jpg", "1.jpg"),  # labelImg, beside the photos
        ("annotations/1.xml", "images/1.png", "1.png"),
        ("annotations/1.xml", "images/1.PNG", "1"),  # no ending
        ("Annotations/1.xml", "JPEGImages/1.png", "C:\\photos\\1.png"),
    ],
)
def test_a_pascal_voc_box_is_a_photo_of_its_class(
    tmp_path: Path, document: str, place: str, name: str
) -> None:
    quarters(tmp_path / place)
    (tmp_path / document).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / document).write_text(VOC.format(name=name, size=(64, 48)))
    found = from_voc(tmp_path)
    assert found.left_out == []
    for label, colour in (("red", (255, 0, 0)), ("green", (0, 128, 0))):
        (cut,) = pixels(found, label)
        assert cut.shape == (24, 32, 3)
        assert (cut == colour).all()


def test_voc_files_that_are_none_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    quarters(tmp_path / "1.png")
    (tmp_path / "1.xml").write_text("\ufeff" + VOC.format(name="1.png", size=(64, 48)), "utf-16")
    (tmp_path / "2.xml").write_text("<svg/>")
    (tmp_path / "3.xml").write_text("<annotation")
    (tmp_path / "4.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    found = from_voc(tmp_path)
    assert sorted(found.classes) == ["green", "red"]
    assert found.reasons == {"not an annotation of Pascal VOC": 3}


TURNED = Image.Exif()
TURNED[0x0112] = 6


def test_a_box_on_a_turned_photo_is_cut_from_what_the_eye_saw(tmp_path: Path) -> None:
    from adapters.errors import BadImage

    quarters(tmp_path / "flat.png", (48, 64))  # as it is seen
    seen = Image.open(tmp_path / "flat.png")
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=TURNED)
    (tmp_path / "flat.png").unlink()
    text = VOC.replace(">33.0<", ">25<").replace(">64.0<", ">48<").replace(">32<", ">24<")
    (tmp_path / "1.xml").write_text(text.format(name="1.png", size=(48, 64)))
    (cut,) = pixels(from_voc(tmp_path), "green")
    assert (cut == (0, 128, 0)).all()
    (tmp_path / "1.xml").write_text(text.format(name="1.png", size=(64, 48)))
    with pytest.raises(BadImage, match="before the photo was turned"):
        pixels(from_voc(tmp_path), "green")


def ls_task(number: int, image: str, result: list[dict], **annotation: Any) -> dict:
    """A task as Label Studio 1.x exports it."""
    return {
        "id": number,
        "annotations": [
            {
                "id": number,
                "completed_by": 1,
                "result": result,
                "was_cancelled": False,
                "ground_truth": False,
                "created_at": "2024-01-01T00:00:00.000000Z",
                "lead_time": 3.2,
            }
            | annotation
        ],
        "file_upload": image.rsplit("/", 1)[-1],
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
        "project": 1,
    }


def choice(*names: str) -> dict:
    return {
        "value": {"choices": list(names)},
        "id": "aB3",
        "from_name": "choice",
        "to_name": "image",
        "type": "choices",
        "origin": "manual",
    }


def rectangle(name: str, x: float, y: float, width: float, height: float) -> dict:
    sides = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return sides | {"rectanglelabels": [name]}


def test_label_studios_tasks_are_read(tmp_path: Path) -> None:
    photos(tmp_path, "images/1a2b3c4d-1.jpg", "2.jpg", "set/3.jpg", "4.jpg", "5.jpg")
    boxes = [
        {"value": box, "type": "rectanglelabels", "original_width": 64, "original_height": 48}
        for box in (rectangle("cat", 0, 0, 50, 50), rectangle("cat", 50, 50, 50, 50))
    ]
    tasks = [
        ls_task(1, "/data/upload/1/1a2b3c4d-1.jpg", [choice("cat")]),
        ls_task(2, "/data/upload/1/5e6f7a8b-2.jpg", [choice("dog")]),  # under its earlier name
        ls_task(3, "/data/local-files/?d=photos/set/3.jpg", [choice("dog")]),
        ls_task(4, "s3://bucket/photos/4.jpg", boxes),
        ls_task(5, "http://host/5.jpg?X-Amz-Expires=9", [choice("cat", "dog")]),
        ls_task(6, "/data/upload/1/1a2b3c4d-6.jpg", [choice("cat")]),
        ls_task(7, "/data/upload/1/1a2b3c4d-7.jpg", [choice("cat")], was_cancelled=True),
    ]
    (tmp_path / "project-1-at-2024.json").write_text(json.dumps(tasks))
    found = from_label_studio(tmp_path)
    assert taken(found, tmp_path) == {
        "cat": ["images/1a2b3c4d-1.jpg", "4.jpg"],
        "dog": ["2.jpg", "set/3.jpg"],
    }
    assert found.reasons == {
        "it has several classes": 1,
        "there is no file": 1,
        "it has no class": 1,
    }


def test_label_studios_polygons_and_taxonomies_are_read(tmp_path: Path) -> None:
    quarters(tmp_path / "1.png")
    photos(tmp_path, "2.jpg")
    points = [[0, 0], [50, 0], [50, 50], [0, 50]]
    polygon = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["red"]}}
    box = {"type": "rectanglelabels", "value": rectangle("blue", 0, 50, 50, 50)}
    tree = {"type": "taxonomy", "value": {"taxonomy": [["plant", "rose"]]}}
    tasks = [ls_task(1, "1.png", [polygon, box]), ls_task(2, "2.jpg", [tree])]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    found = from_label_studio(tmp_path / "a.json")
    assert sorted(found.classes) == ["blue", "red", "rose"]
    assert (pixels(found, "red")[0] == (255, 0, 0)).all()


def test_label_studios_json_min_is_read(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg", "2.jpg", "4.jpg")
    quarters(tmp_path / "3.png")
    more = {
        "annotator": 1,
        "annotation_id": 1,
        "created_at": "x",
        "updated_at": "x",
        "lead_time": 1,
    }
    boxes = [rectangle("red", 0, 0, 50, 50), rectangle("blue", 0, 50, 50, 50)]
    records = [
        {"image": "/data/upload/1/0a0b0c0d-1.jpg", "id": 1, "choice": "cat"} | more,
        {"image": "/data/upload/1/0a0b0c0d-2.jpg", "id": 2, "species": {"choices": ["dog", "cat"]}}
        | more,
        {"image": "/data/upload/1/0a0b0c0d-3.png", "id": 3, "label": boxes} | more,
        {"image": "/data/upload/1/0a0b0c0d-4.jpg", "id": 4, "choice": "cat"} | more,
        {"image": "/data/upload/1/0a0b0c0d-4.jpg", "id": 4, "choice": "dog"} | more,  # a second one
    ]
    (tmp_path / "min.json").write_text(json.dumps(records))
    found = from_label_studio(tmp_path / "min.json")
    assert taken(found, tmp_path) == {"cat": ["1.jpg"], "red": ["3.png"], "blue": ["3.png"]}
    assert (pixels(found, "blue")[0] == (0, 0, 255)).all()
    assert found.reasons == {"it has several classes": 2}


def test_yolos_classification_folders_are_classes_whatever_their_split(tmp_path: Path) -> None:
    photos(tmp_path, "train/rose/1.jpg", "val/rose/2.jfif", "test/tulip/3.jpg", "test/4.jpg")
    photos(tmp_path, "train/rose/.ipynb_checkpoints/1.jpg", "@eaDir/1.jpg", "train/tulip/5")
    found = from_folder(tmp_path)
    assert {k: sorted(v) for k, v in taken(found, tmp_path).items()} == {
        "rose": ["train/rose/1.jpg", "val/rose/2.jfif"],
        "tulip": ["test/tulip/3.jpg", "train/tulip/5"],
    }
    assert found.left_out == [("test/4.jpg", "it is in no class's folder")]


def test_a_generic_folder_under_every_class_is_none(tmp_path: Path) -> None:
    photos(tmp_path, "train/n01443537/images/0.JPEG", "train/n01629819/images/0.JPEG")
    (tmp_path / "train/n01443537/n01443537_boxes.txt").write_text("0.JPEG\t0\t10\t63\t58\n")
    assert sorted(from_folder(tmp_path).classes) == ["n01443537", "n01629819"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n1.jpg,rose\nsub/2.png,tulip\n3.jpg,\n"),
        ("metadata.csv", "\ufefffile_name;species\r\n1.jpg;rose\r\nsub/2.png;tulip\r\n3.jpg;\r\n"),
        (
            "metadata.jsonl",
            '{"file_name": "1.jpg", "label": "rose", "text": "a"}\n'
            '{"file_name": "sub/2.png", "label": "tulip", "text": "b"}\n'
            '{"file_name": "3.jpg", "label": null, "text": "c"}\n',
        ),
    ],
)
@pytest.mark.parametrize("split", ["", "train"])
def test_hugging_faces_imagefolder_is_read_by_its_metadata(
    tmp_path: Path, name: str, text: str, split: str
) -> None:
    here = tmp_path / split
    photos(here, "1.jpg", "sub/2.png", "3.jpg", "4.jpg")
    (here / name).write_text(text)
    found = from_huggingface(tmp_path)
    assert taken(found, here) == {"rose": ["1.jpg"], "tulip": ["sub/2.png"]}
    assert found.reasons == {"it has no class": 1, "no metadata names it": 1}


def test_hugging_faces_object_detection_gives_boxes(tmp_path: Path) -> None:
    quarters(tmp_path / "1.png")
    objects = {"bbox": [[0, 0, 32, 24], [0, 24, 32, 24]], "categories": ["red", "blue"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "objects": objects}))
    found = from_huggingface(tmp_path)
    assert (pixels(found, "red")[0] == (255, 0, 0)).all()
    assert (pixels(found, "blue")[0] == (0, 0, 255)).all()


def test_hugging_faces_field_of_the_class_is_asked_for_where_it_is_open(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,kind,place\n1.jpg,rose,here\n")
    with pytest.raises(BadImport, match="--label; it has: kind, place"):
        from_huggingface(tmp_path)
    assert taken(from_huggingface(tmp_path, "kind"), tmp_path) == {"rose": ["1.jpg"]}


def test_a_custom_vision_photo_with_regions_of_several_tags_is_taken_box_by_box(
    tmp_path: Path,
) -> None:
    quarters(tmp_path / "a1.png")
    regions = [
        {"regionId": "r", "tagName": tag, "left": 0.0, "top": top, "width": 0.5, "height": 0.5}
        for tag, top in (("red", 0.0), ("blue", 0.5))
    ]
    image = {"id": "a1", "width": 64, "height": 48, "regions": regions}
    (tmp_path / "tagged.json").write_text(json.dumps([image]))
    found = from_custom_vision(tmp_path)
    assert (pixels(found, "red")[0] == (255, 0, 0)).all()
    assert (pixels(found, "blue")[0] == (0, 0, 255)).all()
