"""Labelled photos as other tools keep them: (file, class) pairs, and what is left out with why.

No HTTP here, and no picture is opened: the service says which are broken.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.errors import RMAdapterError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


class BadImport(RMAdapterError):
    """What was given is not of that kind; says which file and, where there is one, which line."""


@dataclass
class Labelled:
    """Files by class, and what is left out: (where, why)."""

    classes: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, file: Path, labels: list[str]) -> None:
        """One photo with the classes that it has: one of them is what can be fitted."""
        names = sorted(set(filter(None, (label.strip() for label in labels))))
        if not names:
            self.left_out.append((where, "it has no class"))
        elif len(names) > 1:
            self.left_out.append((where, f"it has several classes: {', '.join(names)}"))
        elif not file.is_file():
            self.left_out.append((where, f"there is no file {file}"))
        else:
            self.classes[names[0]].append(file)

    @property
    def count(self) -> int:
        """How many photos there are, over all classes."""
        return sum(map(len, self.classes.values()))


def from_folder(folder: Path) -> Labelled:
    """A folder a class, as torchvision's ImageFolder has it."""
    if not folder.is_dir():
        raise BadImport(f"{folder} is no folder")
    found = Labelled()
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.name.startswith("."):
            continue
        where = str(file.relative_to(folder))
        if file.parent == folder:
            found.left_out.append((where, "it is in no class's folder"))
        elif file.suffix.lower() not in _SUFFIXES:
            found.left_out.append((where, "not a picture by its name"))
        else:
            found.add(where, file, [file.parent.name])
    return found


def from_csv(file: Path, image: str, label: str) -> Labelled:
    """A line a photo, with a header; paths are relative to the file."""
    found = Labelled()
    with _opened(file) as lines:
        rows = csv.DictReader(lines)
        missing = [name for name in (image, label) if name not in (rows.fieldnames or [])]
        if missing:
            has = ", ".join(rows.fieldnames or []) or "none"
            raise BadImport(f"{file}: no column {', '.join(missing)}; its columns: {has}")
        for row in rows:
            where = f"{file.name} line {rows.line_num}"
            if not row[image]:
                found.left_out.append((where, f"nothing in column {image}"))
                continue
            found.add(where, file.parent / row[image], [row[label] or ""])
    return found


def from_coco(file: Path) -> Labelled:
    """Reads COCO's JSON.

    A photo's class is that of its annotations, where they agree. Photos lie beside the file, or in
    a folder `images` there.
    """
    document = _json(file)
    found = Labelled()
    try:
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        labels: dict[Any, list[str]] = defaultdict(list)
        for annotation in document["annotations"]:
            labels[annotation["image_id"]].append(names[annotation["category_id"]])
        images = [(image["id"], str(image["file_name"])) for image in document["images"]]
    except (KeyError, TypeError) as error:
        raise BadImport(f"{file}: not COCO's format: {error} is missing") from error
    for key, name in images:
        places = [file.parent / name, file.parent / "images" / name]
        found.add(name, next((p for p in places if p.is_file()), places[0]), labels[key])
    return found


def from_custom_vision(path: Path) -> Labelled:
    """Reads an Azure Custom Vision project.

    It is a folder with the photos and one or more JSON files of what the Training API's
    GetTaggedImages (or GetImages) answers: a list of images, each with `id` and `tags` of
    `tagName`. A photo is the file whose name, without its ending, is the image's `id`, or
    that `fileName` or `path` names; or the folder holds a folder a tag.
    """
    documents = sorted(path.glob("*.json")) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    if not documents:
        return from_folder(path)
    files = {file.stem: file for file in sorted(folder.rglob("*")) if _is_picture(file)}
    found = Labelled()
    seen: set[str] = set()
    for document in documents:
        for image in _images(document):
            name = str(image.get("id") or image.get("imageId") or "")
            if name in seen:
                continue
            seen.add(name)
            given = image.get("fileName") or image.get("path")
            file = folder / str(given) if given else files.get(name, folder / f"{name}.jpg")
            where = f"{document.name}: {name or given}"
            found.add(where, file, [str(tag.get("tagName", "")) for tag in _tags(image)])
    return found


def _is_picture(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in _SUFFIXES


def _images(document: Path) -> Iterator[dict[str, Any]]:
    content = _json(document)
    images = content.get("images", content.get("value")) if isinstance(content, dict) else content
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise BadImport(f"{document}: no list of images with tags, as GetTaggedImages answers it")
    yield from images


def _tags(image: dict[str, Any]) -> list[dict[str, Any]]:
    """An object-detection project's regions have tags too."""
    tags = list(image.get("tags") or []) + list(image.get("regions") or [])
    return [tag for tag in tags if isinstance(tag, dict)]


def _opened(file: Path) -> Any:
    try:
        return file.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise BadImport(f"{file} cannot be read: {error.strerror}") from error


def _json(file: Path) -> Any:
    try:
        with _opened(file) as stream:
            return json.load(stream)
    except ValueError as error:
        raise BadImport(f"{file} is not JSON: {error}") from error
