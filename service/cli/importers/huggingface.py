"""Hugging Face's imagefolder: photos with metadata.csv or metadata.jsonl, or a folder per class."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.cli.importers.csv_table import table
from service.cli.importers.files import Places, read_text, walk
from service.cli.importers.folder import from_folder
from service.cli.importers.found import BadImport, Box, Labelled, no_picture

_LABEL = ("label", "labels", "class", "class_name", "category", "target", "species")
_FILE = "file_name"

Record = tuple[int, dict[str, Any]]  # its line, its fields


def from_huggingface(folder: Path, label: str | None = None) -> Labelled:
    """Reads all metadata files of a folder, such as one per split; without one, a folder per class.

    Args:
        folder: what `load_dataset("imagefolder", data_dir=…)` takes.
        label: the field of the class; without it, one of the usual name, or the only one.

    Raises:
        BadImport: it is no folder, or a metadata file has no such field.
    """
    found = Labelled()
    files = walk(folder, found)
    documents = [f for f in files if f.name in ("metadata.csv", "metadata.jsonl")]
    if not documents:
        return from_folder(folder)
    named = set(documents)
    for document in documents:
        places = Places(document.parent)
        for line, record in _records(document):
            where = f"{document.relative_to(folder)} line {line}"
            file = places.find(str(record.get(_FILE) or ""))
            named.add(file)
            found.add_regions(where, file, _regions(document, record, label))
    for file in files:
        if file not in named:
            why = no_picture(file) or "no metadata names it"
            found.left_out.append((str(file.relative_to(folder)), why))
    return found


def _records(document: Path) -> Iterator[Record]:
    if document.suffix == ".csv":
        rows = table(document, (_FILE,))
        header = [cell.strip() for cell in rows[0][1]] if rows else []
        records = [(line, dict(zip(header, cells, strict=False))) for line, cells in rows[1:]]
    else:
        records = list(_lines(document))
    if records and _FILE not in records[0][1]:
        raise BadImport(f"{document}: no field {_FILE}; it has: {', '.join(records[0][1])}")
    yield from records


def _lines(document: Path) -> Iterator[Record]:
    for number, line in enumerate(read_text(document).split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadImport(f"{document} line {number} is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise BadImport(f"{document} line {number} is no JSON object")
            yield number, record


def _regions(
    document: Path, record: dict[str, Any], label: str | None
) -> Iterator[tuple[str, Box | None]]:
    objects = record.get("objects")
    if label is None and isinstance(objects, dict):  # object detection
        names = objects.get("categories") or objects.get("category") or []
        for name, sides in zip(names, objects.get("bbox") or [], strict=False):
            left, top, width, height = map(float, sides)
            yield str(name), Box(left, top, left + width, top + height)
        return
    others = [key for key in record if key != _FILE]
    usual = [key for key in _LABEL if key in others]
    field = label or (usual[0] if usual else others[0] if len(others) == 1 else None)
    if field is None or field not in record:
        has = ", ".join(others) or "none"
        raise BadImport(f"{document}: which field is the class? Say so by --label; it has: {has}")
    value = record[field]
    for name in value if isinstance(value, list) else [value]:
        yield "" if name is None else str(name), None
