"""A table with a line per photo, as spreadsheets, scripts and other tools write it."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.cli.importers.files import Places, read_text
from service.cli.importers.found import BadImport, Labelled
from training.folders import SUFFIXES, posix

_DELIMITERS = ",;\t|"
_LOOKED_AT = 20  # rows by which the delimiter is chosen

Row = tuple[int, list[str]]  # its line, its cells


def from_csv(file: Path, image: str = "image", label: str = "label") -> Labelled:
    """A line per photo, with paths relative to the file. Encoding, delimiter, header are found out.

    Args:
        file: the table.
        image: the column of paths: its name in any case of letters, or its number from 1 on.
        label: the column of classes.

    Raises:
        BadImport: it cannot be read, or has no such column.
    """
    rows = table(file, (image, label))
    places = Places(file.parent, file.parent / "images")
    found = Labelled()
    headed, columns = _columns(file, rows, places, (image, label))
    for line, cells in rows[headed:]:
        where = f"{file.name} line {line}"
        path, name = (cells[c].strip() if c < len(cells) else "" for c in columns)
        if not path:
            found.left_out.append((where, f"nothing in column {image}"))
        else:
            found.add(where, places.find(path), [name])
    return found


def table(file: Path, columns: Sequence[str] = ()) -> list[Row]:
    """The rows of a table, without empty ones.

    Args:
        file: the table.
        columns: names in its header, by which its delimiter may be known.

    Raises:
        BadImport: it cannot be read, or is no table.
    """
    text = read_text(file)
    first, _, rest = text.partition("\n")
    start, given = 0, first.strip().casefold()
    if given.startswith("sep=") and len(given) == 5:  # Excel's own line
        start, text, delimiter = 1, rest, given[-1]
    else:
        delimiter = _delimiter(text, columns)
    try:
        return [(start + line, cells) for line, cells in _rows(text, delimiter)]
    except csv.Error as error:
        raise BadImport(f"{file} is not CSV: {error}") from error


def _rows(text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _delimiter(text: str, columns: Sequence[str]) -> str:
    """The delimiter that finds the columns, else the one with the most equal-sized rows' cells."""

    def fit(delimiter: str) -> tuple[int, bool, int]:
        try:
            rows = [r for _, (_, r) in zip(range(_LOOKED_AT), _rows(text, delimiter), strict=False)]
        except csv.Error:
            return 0, False, 0
        widths = {len(row) for row in rows}
        header = {cell.strip().casefold() for cell in rows[0]} if rows else set()
        named = len(header & {column.casefold() for column in columns})
        return named, len(widths) == 1 and widths != {1}, max(widths, default=0)

    return max(_DELIMITERS, key=fit)


def _columns(
    file: Path, rows: list[Row], places: Places, wanted: tuple[str, str]
) -> tuple[int, tuple[int, int]]:
    """How many rows are the header: 0 or 1; and the places of the two columns."""
    first = rows[0][1] if rows else []
    header = [cell.strip().casefold() for cell in first]
    photo = next((i for i, cell in enumerate(first) if _is_photo(cell, places)), None)
    if all(name.strip().casefold() in header for name in wanted):
        return 1, (header.index(wanted[0].strip().casefold()), _index(header, wanted[1]))
    if all(name.isdigit() and 0 < int(name) <= len(first) for name in wanted):
        return int(photo is None), (int(wanted[0]) - 1, int(wanted[1]) - 1)
    if photo is not None and len(first) == 2:
        return 0, (photo, 1 - photo)
    if photo is not None:
        raise BadImport(
            f"{file} has no header and {len(first)} columns: say which by number, as in "
            f"--image {photo + 1} --label 2"
        )
    missing = [name for name in wanted if name.strip().casefold() not in header]
    has = ", ".join(cell.strip() for cell in first) or "none"
    raise BadImport(f"{file}: no column {', '.join(missing)}; its columns: {has}")


def _index(header: list[str], name: str) -> int:
    return header.index(name.strip().casefold())


def _is_photo(cell: str, places: Places) -> bool:
    path = posix(cell.strip())
    return path.suffix.lower() in SUFFIXES or bool(path.parts and places.find(cell).is_file())
