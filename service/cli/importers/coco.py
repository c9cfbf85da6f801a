"""COCO's JSON, as MS COCO, CVAT, Roboflow, FiftyOne and others lay it beside the photos."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from service.cli.importers.files import Places, check_folder, read_json
from service.cli.importers.found import BadImport, Box, Labelled

_SUBSET = re.compile(r"^(?:instances|person_keypoints|annotations|labels)_(.+)$")
_SIDES = 4


def from_coco(path: Path) -> Labelled:
    """A file of labels, or a folder with some.

    A photo whose annotations agree on one class is taken whole; where there are several classes,
    each box is. Photos lie beside the file, or in `images`, `data`, or a folder of the subset's
    name: `val2017` beside `annotations/instances_val2017.json`.

    Raises:
        BadImport: it cannot be read, or is not of this format.
    """
    found = Labelled()
    for file in _documents(path):
        _read(file, found)
    return found


def _documents(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    check_folder(path)
    patterns = ("annotations/*.json", "*.json", "*/_annotations.coco.json")
    files = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    of_objects = [file for file in files if file.name.startswith("instances")]
    if not files:
        raise BadImport(f"{path}: no JSON file, there or in its folder annotations")
    return of_objects or files


def _read(file: Path, found: Labelled) -> None:
    document = read_json(file)
    try:
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        sizes = {
            image["id"]: (image.get("width") or 0, image.get("height") or 0)
            for image in document["images"]
        }
        regions: dict[Any, list[tuple[str, Box | None]]] = defaultdict(list)
        for annotation in document["annotations"]:
            key = annotation["image_id"]
            box = _box(annotation, sizes.get(key, (0, 0)))
            regions[key].append((names[annotation["category_id"]], box))
        images = [(image["id"], str(image["file_name"])) for image in document["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadImport(f"{file}: not COCO's format: {error} is missing") from error
    places = _places(file)
    for key, name in images:
        found.add_regions(name, places.find(name), regions[key])


def _box(annotation: dict[str, Any], size: tuple[int, int]) -> Box | None:
    """[x, y, width, height] in pixels; None for a crowd's, which holds many things."""
    sides = annotation.get("bbox") or []
    if annotation.get("iscrowd") or len(sides) != _SIDES:
        return None
    left, top, width, height = map(float, sides)
    return Box(left, top, left + width, top + height, *size)


def _places(file: Path) -> Places:
    beside = file.parent
    root = beside.parent if beside.name.casefold() in ("annotations", "labels") else beside
    subset = _SUBSET.match(file.stem)
    bases = [beside, beside / "images", root / "images", root, root / "data"]
    if subset:
        bases[:0] = [root / "images" / subset[1], root / subset[1]]
    return Places(*bases)
