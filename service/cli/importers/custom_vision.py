"""Azure Custom Vision: photos with what the Training API says of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.cli.importers.files import Places, read_json, walk
from service.cli.importers.folder import from_folder
from service.cli.importers.found import BadImport, Box, Labelled, no_picture

Json = dict[str, Any]


def from_custom_vision(path: Path) -> Labelled:
    """Reads an Azure Custom Vision project.

    It is a folder with the photos and one or more JSON files of what the Training API's
    GetTaggedImages (or GetImages) answers: a list of images, each with `id` and `tags` of
    `tagName`. A photo is the file whose name, without its ending, is the image's `id`, or
    that `fileName` or `path` names; or the folder holds a folder a tag. The tags keep their ids.

    Raises:
        BadImport: there is no such folder or file, or it is not of this format.
    """
    found = Labelled()
    if path.is_dir():
        files = walk(path, found)
        documents = [f for f in files if f.parent == path and f.suffix.lower() == ".json"]
        if not documents:
            return from_folder(path)
        contents = {document: list(_images(document)) for document in documents}
    else:
        contents = {path: list(_images(path))}  # before its folder is looked through
        files = walk(path.parent, found)
    folder = path if path.is_dir() else path.parent
    by_id = {file.stem: file for file in files if no_picture(file) is None}
    places = Places(folder, folder / "images")
    seen: set[str] = set()
    for document, images in contents.items():
        for image in images:
            name = str(image.get("id") or image.get("imageId") or "")
            if name in seen and name:
                continue
            seen.add(name)
            given = image.get("fileName") or image.get("path")
            missing = folder / f"{name}.jpg"
            file = places.find(str(given)) if given else by_id.get(name, missing)
            found.add_regions(f"{document.name}: {name or given}", file, _regions(image))
            for tag in _tags(image):
                found.add_tag(str(tag.get("tagName", "")), tag.get("tagId"))
    return found


def _images(document: Path) -> Iterator[Json]:
    content = read_json(document)
    images = content.get("images", content.get("value")) if isinstance(content, dict) else content
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise BadImport(f"{document}: no list of images with tags, as GetTaggedImages answers it")
    yield from images


def _regions(image: Json) -> Iterator[tuple[str, Box | None]]:
    """An object-detection project's regions have tags too; their sides are fractions."""
    for tag in _tags(image):
        yield str(tag.get("tagName", "")), _box(tag)


def _tags(image: Json) -> list[Json]:
    given = [*(image.get("regions") or []), *(image.get("tags") or [])]
    return [tag for tag in given if isinstance(tag, dict)]


def _box(region: Json) -> Box | None:
    try:
        left, top, width, height = (float(region[k]) for k in ("left", "top", "width", "height"))
    except (KeyError, TypeError, ValueError):
        return None
    return Box(left, top, left + width, top + height, 1, 1)
