"""Pascal VOC: an XML file with boxes per photo, as VOC, CVAT and labelImg write it."""

from pathlib import Path
from xml.etree import ElementTree  # nosec B405

from service.cli.importers.files import Places, read_text, walk
from service.cli.importers.found import BadImport, Box, Labelled
from training.folders import SUFFIXES

_ROOTS = ("Annotations", "annotations", "xml", "labels")


def from_voc(path: Path) -> Labelled:
    """Every box is a photo of its class.

    Args:
        path: a folder with XML files (`Annotations` beside `JPEGImages`, or beside the photos), or
            one XML file.

    Raises:
        BadImport: there is no such folder, or no annotation in it.
    """
    found = Labelled()
    files = (
        [f for f in walk(path, found) if f.suffix.lower() == ".xml"] if path.is_dir() else [path]
    )
    if not files:
        raise BadImport(f"{path}: no XML file, there or in its folders")
    places: dict[Path, Places] = {}
    for file in files:
        if file.parent not in places:
            places[file.parent] = _places(file.parent)
        try:
            _read(file, places[file.parent], found)
        except (ElementTree.ParseError, ValueError, AttributeError) as error:
            found.left_out.append((file.name, f"not an annotation of Pascal VOC: {error}"))
    return found


def _places(beside: Path) -> Places:
    above = [p for p in (beside, *beside.parents) if p.name in _ROOTS][:1]
    root = above[0].parent if above else beside
    inside = beside.relative_to(above[0]) if above else Path()
    bases = [root / folder / inside for folder in ("JPEGImages", "images", "Images")]
    return Places(beside, *bases, *(base.parent for base in bases[:1]), root)


def _read(file: Path, places: Places, found: Labelled) -> None:
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it defines entities")
    root = ElementTree.fromstring(text)  # noqa: S314  # nosec B314 - entities are refused above
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>")
    photo = _photo(file, root, places)
    size = tuple(float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    boxes = list(root.iterfind("object"))
    if not boxes:
        found.add(file.name, photo, [])
    for number, thing in enumerate(boxes, 1):
        where = f"{file.name} box {number}"
        found.add(where, photo, [thing.findtext("name") or ""], _box(thing, (size[0], size[1])))


def _photo(file: Path, root: ElementTree.Element, places: Places) -> Path:
    """The photo that the file names, else the one with the file's own name."""
    given = [root.findtext(name) or "" for name in ("filename", "path")]
    names = [name for name in given if name.strip()] + [
        file.stem + ending for suffix in sorted(SUFFIXES) for ending in (suffix, suffix.upper())
    ]
    candidates = (places.find(name) for name in names)
    return next((place for place in candidates if place.is_file()), places.find(names[0]))


def _box(thing: ElementTree.Element, size: tuple[float, float]) -> Box:
    """A box from VOC's pixels, which count from 1, both ends included.

    Boxes of tools that count from 0 are off by one pixel.
    """
    sides = (thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    left, top, right, bottom = (float(side or "nan") for side in sides)
    return Box(max(left - 1, 0), max(top - 1, 0), right, bottom, *size)
