"""Label Studio's two exports in JSON: whole tasks, and JSON-MIN with a record an annotation."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.cli.importers.files import Places, check_folder, read_json
from service.cli.importers.found import BadImport, Box, Labelled
from training.folders import SUFFIXES, posix

_IMAGE = ("image", "img", "photo", "picture", "url")  # usual names of the picture's field
_LABEL = ("choice", "choices", "label", "labels", "class", "category")
_OWN = frozenset(  # fields of JSON-MIN that are Label Studio's
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
)
_UPLOAD = "-"  # stands between a random prefix and the name of a file that was uploaded
_PREFIX = 8  # characters of it

Region = tuple[str, Box | None]
Json = dict[str, Any]


def from_label_studio(path: Path) -> Labelled:
    """Reads choices and rectangles. A photo with one class is taken whole, else box by box.

    The export names photos as Label Studio's server does; they are looked for by their last folders
    beside the file, and in `images` and `upload` there.

    Args:
        path: the exported file, or a folder with it alone as JSON.

    Raises:
        BadImport: it cannot be read, or is not of this format.
    """
    file = _document(path)
    tasks = read_json(file)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadImport(f"{file}: no list of tasks, as Label Studio exports it")
    regions: dict[str, list[Region]] = defaultdict(list)
    for task in tasks:
        name = _image(task.get("data", task), file)
        regions[name] += _of_task(task) if "data" in task else _of_record(task, name)
    places = Places(file.parent, *(file.parent / name for name in ("images", "upload", "media")))
    found = Labelled()
    for name, given in regions.items():
        found.add_regions(name, _find(name, places), given)
    return found


def _document(path: Path) -> Path:
    if not path.is_dir():
        return path
    check_folder(path)
    files = sorted(path.glob("*.json"))
    if len(files) != 1:
        raise BadImport(f"{path} holds {len(files)} JSON files: name the one that was exported")
    return files[0]


def _find(name: str, places: Places) -> Path:
    """Under its name on the server, else under the one that it had before it was uploaded."""
    file = places.find(name)
    last = posix(name).name
    if not file.is_file() and last[_PREFIX : _PREFIX + 1] == _UPLOAD:
        before = places.find(last[_PREFIX + 1 :])
        return before if before.is_file() else file
    return file


def _image(fields: Any, file: Path) -> str:
    texts = (
        {k: v for k, v in fields.items() if isinstance(v, str)} if isinstance(fields, dict) else {}
    )
    ended = [k for k, v in texts.items() if posix(v.partition("?")[0]).suffix.lower() in SUFFIXES]
    usual = [key for key in _IMAGE if key in texts]
    for key in [*(k for k in usual if k in ended), *ended, *usual]:
        return texts[key]
    raise BadImport(f"{file}: a task has no picture; its fields: {', '.join(texts) or 'none'}")


def _of_task(task: Json) -> Iterator[Region]:
    for annotation in task.get("annotations") or task.get("completions") or []:
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            value = dict(result.get("value") or {})
            sizes = {k: result.get(k) for k in ("original_width", "original_height")}
            yield from _of_value(value | sizes)


def _of_record(record: Json, image: str) -> Iterator[Region]:
    """JSON-MIN: fields are named as the project's configuration names them."""
    fields = {k: v for k, v in record.items() if k not in _OWN and v != image}
    structured = {k: v for k, v in fields.items() if isinstance(v, dict | list)}
    texts = [k for k, v in fields.items() if isinstance(v, str)]
    usual = [key for key in _LABEL if key in texts]
    for value in structured.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from _of_value(one)
    if not structured and (usual or len(texts) == 1):
        yield fields[(usual or texts)[0]], None


def _of_value(value: Json) -> Iterator[Region]:
    for label in value.get("choices") or []:
        yield str(label), None
    for path in value.get("taxonomy") or []:
        yield str(path[-1] if isinstance(path, list) and path else path), None
    for kind in ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels"):
        for label in value.get(kind) or []:
            yield str(label), _box(value)


def _box(value: Json) -> Box | None:
    """Sides in percent of the picture, of a polygon those around it.

    None for what is no upright box: a turned one, a brush's mask, an ellipse.
    """
    try:
        if points := value.get("points"):
            across, down = zip(*((float(x), float(y)) for x, y in points), strict=True)
            return Box(min(across), min(down), max(across), max(down), 100, 100)
        left, top, width, height = (float(value[k]) for k in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError):
        return None
    if value.get("rotation"):
        return None
    return Box(left, top, left + width, top + height, 100, 100)
