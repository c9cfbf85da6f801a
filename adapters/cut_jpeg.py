"""Whether a JPEG that is cut short has nearly all of its picture (ITU-T T.81)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import ImageFile

_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
# A marker with a length: not a byte of the picture, a restart, an end, or a fill byte before it.
_SEGMENT = re.compile(rb"\xff[\x01-\xcf\xda-\xfe]")
_MOST_SEGMENTS = 10_000  # a file of nothing else would take seconds to walk through
_BLOCK = 16  # rows of a block at most
_ENOUGH = 0.95  # of the rows, and a block: less is refused
_COEFFICIENTS = 64  # of a block: the first is its mean
_LOWEST_BIT = 1  # what the last scans refine; nobody sees it


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over the picture: which coefficients it sends, and down to which bit."""

    components: tuple[int, ...]
    coefficients: range
    low_bit: int


def nearly_whole(file: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether what is missing is so little that viewers show the picture, too.

    A camera that stops early leaves out the last bytes.

    Args:
        file: the JPEG, whose decoding failed.
        data: its bytes.
    """
    if file.format not in ("JPEG", "MPO"):
        return False
    if file.info.get("progressive"):
        return _all_but_refined(data, len(file.getbands()))
    rows = _rows_decoded(file)
    return rows > 0 and rows + _BLOCK >= _ENOUGH * file.height


def ended(data: bytes) -> bytes:
    """The JPEG without what was begun last, if its length says more, and with an end."""
    whole = next((at for _, at, end in _segments(data) if end > len(data)), len(data))
    return data[:whole] + _END_OF_IMAGE


def _rows_decoded(file: ImageFile.ImageFile) -> int:
    """The decoder writes a row of blocks when it has the next one, into a picture of zeros."""
    file.tile = []  # what is there counts as loaded
    brightest = np.asarray(file).reshape(file.height, -1).max(axis=1)
    return int(np.flatnonzero(brightest).max(initial=-1)) + 1


def _all_but_refined(data: bytes, components: int) -> bool:
    """Whether whole scans have sent all coefficients of a progressive JPEG but their lowest bit."""
    sent = np.full((components, _COEFFICIENTS), 16)  # the lowest bit that came
    places: dict[int, int] = {}  # of the components, by their identifiers
    for scan in list(_scans(data))[:-1]:  # the last one is cut
        for component in scan.components:
            place = places.setdefault(component, len(places))
            if place < components:
                sent[place, scan.coefficients] = scan.low_bit
    return bool((sent <= _LOWEST_BIT).all())


def _scans(data: bytes) -> Iterator[_Scan]:
    """The heads of all scans; T.81, section B.2.3."""
    for kind, at, end in _segments(data):
        if kind == _START_OF_SCAN and end <= len(data):
            head = data[at + 4 : end]  # Ns, Ns × (Cs, tables), Ss, Se, AhAl
            first, last, bits = head[-3:]
            components = tuple(head[1 : 1 + 2 * head[0] : 2])
            yield _Scan(components, range(first, last + 1), bits & 15)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of what has a length; T.81, B.1.1.4. The last may lack its end."""
    end = 2
    for _ in range(_MOST_SEGMENTS):
        found = _SEGMENT.search(data, end)
        if found is None or found.end() + 2 > len(data):
            return
        end = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield data[found.start() + 1], found.start(), end
