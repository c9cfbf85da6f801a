"""The result of an import: whole photos or boxes by class, and what is left out and why."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from adapters.errors import BadImage, RMAdapterError
from adapters.names import normal_name

_HEAD = 18  # bytes by which a format is known
_STARTS = (  # of the formats that the service reads
    b"\xff\xd8\xff",  # JPEG, MPO
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
)
_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
)
_DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of a BMP's second header, by its version
_MAX_PNG = 4_000_000  # pixels; a larger cut-out as PNG may be more than an upload may have


class BadImport(RMAdapterError):
    """The input is not of the expected format; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture.

    Sides are in units in which the whole picture is `width` × `height`: its pixels, or 1 × 1 for
    fractions. 0 × 0 means pixels of a picture whose size the tool does not give.
    """

    left: float
    top: float
    right: float
    bottom: float
    width: float = 0
    height: float = 0


@dataclass(frozen=True, slots=True)
class Photo:
    """A file, or a box of it."""

    path: Path
    box: Box | None = None

    @property
    def name(self) -> str:
        """The file's name; a box's says where it lies."""
        if self.box is None:
            return self.path.name
        sides = (self.box.left, self.box.top, self.box.right, self.box.bottom)
        return f"{self.path.stem}_{'_'.join(f'{side:g}' for side in sides)}.png"

    def read(self) -> bytes:
        """The file's bytes, or the box's as a picture of its own, upright.

        Raises:
            BadImage: the picture that a box is of cannot be read, or the box lies outside it.
        """
        data = self.path.read_bytes()
        return data if self.box is None else _cut(data, self.box)


@dataclass
class Labelled:
    """Photos by class; what is left out: (where, why); how many system files were passed over.

    `tags` are the ids that the tool gave to classes, where they are UUIDs.
    """

    classes: dict[str, list[Photo]] = field(default_factory=lambda: defaultdict(list))
    left_out: list[tuple[str, str]] = field(default_factory=list)
    hidden: int = 0
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, file: Path, labels: Iterable[str], box: Box | None = None) -> None:
        """Adds one photo; it is left out unless it has exactly one class."""
        names = sorted(set(filter(None, map(normal_name, labels))))
        if (why := _unusable(file, names, box)) is not None:
            self.left_out.append((where, why))
        else:
            self.classes[names[0]].append(Photo(file, box))

    def add_tag(self, label: str, tag: object) -> None:
        """A class's id, the first that is a UUID."""
        with suppress(ValueError):
            self.tags.setdefault(normal_name(label), str(UUID(str(tag))))

    def add_regions(
        self, where: str, file: Path, regions: Iterable[tuple[str, Box | None]]
    ) -> None:
        """A photo with labelled boxes: whole where they agree on one class, else box by box."""
        given = list(regions)
        boxes = [(label, box) for label, box in given if box is not None]
        if len({normal_name(label) for label, _ in given}) > 1 and boxes:
            for number, (label, box) in enumerate(boxes, 1):
                self.add(f"{where} box {number}", file, [label], box)
        else:
            self.add(where, file, [label for label, _ in given])

    @property
    def count(self) -> int:
        """How many photos there are, over all classes."""
        return sum(map(len, self.classes.values()))

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason keeps something out, the most frequent first."""
        counted = Counter(why.partition(":")[0] for _, why in self.left_out)
        if self.hidden:
            counted["a hidden or system file"] = self.hidden
        return dict(counted.most_common())


def no_picture(file: Path) -> str | None:
    """Why a file is not a picture, by its first bytes, not its name; None: it is a picture."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None if _starts_as_picture(head) else "not a picture by its content"


def _starts_as_picture(head: bytes) -> bool:
    bmp = head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _DIB_HEADERS
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    heif = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return head.startswith(_STARTS) or bmp or webp or heif


def _unusable(file: Path, names: list[str], box: Box | None) -> str | None:
    if not names:
        return "it has no class"
    if len(names) > 1:
        return f"it has several classes: {', '.join(names)}"
    if not file.is_file():
        return f"there is no file: {file}"
    if (why := no_picture(file)) is not None:
        return why
    if box is not None and not (box.right > box.left and box.bottom > box.top):
        return "its box is empty"
    return None


def _cut(data: bytes, box: Box) -> bytes:
    from adapters.pixels import read_picture

    image = read_picture(data)
    turned = (box.width, box.height) == (image.height, image.width) != image.size
    if turned:
        raise BadImage("its box was drawn before the photo was turned upright")
    across = image.width / box.width if box.width else 1.0
    down = image.height / box.height if box.height else 1.0
    left, right = (min(max(round(x * across), 0), image.width) for x in (box.left, box.right))
    top, bottom = (min(max(round(y * down), 0), image.height) for y in (box.top, box.bottom))
    if left >= right or top >= bottom:
        raise BadImage("its box lies outside the picture")
    part = image.crop((left, top, right, bottom))
    file = io.BytesIO()
    if part.width * part.height <= _MAX_PNG:
        part.save(file, "PNG")
    else:
        part.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
