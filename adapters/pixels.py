"""Bytes → pixels: the one preprocessing function of fitting, serving and every backend.

Only Pillow decodes. It reads every format here and has the resize that CLIP was trained with. Its
libjpeg-turbo decodes large photos at a half, a quarter or an eighth of their size. simplejpeg uses
the same library and is no faster; torchvision has no reduced scale and rounds differently; libvips
has different filters. `python -m tests.benchmarks.pixels` compares them.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pi_heif import register_heif_opener
from PIL import Image, ImageFile, UnidentifiedImageError

from adapters.cut_jpeg import ended, nearly_whole
from adapters.errors import BadImage
from adapters.srgb import orientation, to_srgb, upright
from adapters.tiff import is_tiff, read_deep_tiff

Pixels = NDArray[np.uint8]  # [3, S, S], RGB
_Box = tuple[float, float, float, float]  # left, top, right, bottom

# The formats that phones, browsers, scanners and microscopes write. Pillow reads MPO as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC"
_OTHERS = {  # signatures of unsupported formats: (offset, bytes) → name
    (0, b"\x00\x00\x00\x0cjP  "): "JPEG 2000",
    (0, b"\xff\x4f\xff\x51"): "JPEG 2000",
    (0, b"\xff\x0a"): "JPEG XL",
    (0, b"\x00\x00\x00\x0cJXL "): "JPEG XL",
    (0, b"%PDF"): "PDF",
    (0, b"<svg"): "SVG",
    (0, b"<?xml"): "XML or SVG",
    (0, b"<!DOCTYPE"): "HTML",
    (0, b"<html"): "HTML",
    (0, b"8BPS"): "Photoshop",
    (0, b"\x00\x00\x01\x00"): "icon (ICO)",
    (0, b"PK\x03\x04"): "zip archive",
    (0, b"\x1f\x8b"): "gzip archive",
    (4, b"ftypcrx"): "camera raw (CR3)",
    (0, b"II*\0"): "TIFF, in a form that is not read, such as floats with LZW compression",
    (0, b"MM\0*"): "TIFF, in a form that is not read, such as floats with LZW compression",
    (4, b"ftyphei"): "HEIC, broken or cut short",
    (4, b"ftypmif1"): "HEIC, broken or cut short",
    (4, b"ftypavif"): "AVIF, broken or cut short",
    (4, b"ftyp"): "video",
    (0, b"\x1aE\xdf\xa3"): "video",
    (8, b"AVI "): "video",
}
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
# A reduced picture stays at least this many times the target size before the exact resize. libjpeg
# reduces while it decodes; a box filter reduces other formats. Pillow's documentation calls 3
# visually indistinguishable, and CLIP's features agree (cosine above 0.999); 2 changes them.
_GAP = 3

# Each scan is a pass over the whole picture. Encoders write about ten. 20 MB of other data, such as
# a phone's video after the photo, contain the two bytes about 300 times by chance.
_JPEG, _SCAN, _MAX_SCANS = b"\xff\xd8", b"\xff\xda", 500

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that Pillow unpacks; large ones make it fail
_MAX_TEXT, _MAX_TEXTS = 2**20, 2**24  # unpacked bytes of one such chunk, and of all together
_SMALL = 32  # pixels of a side; the smallest photos that people classify, CIFAR's, have as many
_WHOLE = 1 << 20  # a target side in pixels so large that no picture is reduced

# Pillow warns about odd metadata and large pictures; the code below refuses what matters. The
# filter is set once per process, since `catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # `ImageLimits` decides, before anything is unpacked
register_heif_opener(thumbnails=False)


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """A model's preprocessing: shortest side to `size`, centre crop, then (x/255 − mean)/std."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest picture that is decoded: bytes as sent, pixels as unpacked."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000  # a 50-megapixel photo, 200 MB if not a JPEG


def decode_image(
    data: bytes,
    spec: PixelSpec,
    limits: ImageLimits = ImageLimits(),
    warn: Callable[[str], None] = lambda _: None,
) -> Pixels:
    """Decodes one picture upright, resizes its shortest side to `spec.size` and crops the centre.

    Args:
        data: the file as it was sent.
        spec: the model's size and resampling.
        limits: the largest picture that is decoded.
        warn: called with the defect of a picture that could still be read.

    Returns:
        uint8 [3, S, S] in sRGB. It equals torchvision's Resize and CenterCrop on the PIL image if
        the shortest side is under 5·S; above, the mean difference is under 1 of 255.

    Raises:
        BadImage: the data is empty, of an unknown format, cut short, or above a limit.
    """
    if not data:
        raise BadImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise BadImage(f"{len(data):,} bytes, more than the {limits.max_bytes:,} allowed")
    if data.startswith(_JPEG) and data.count(_SCAN) > _MAX_SCANS:
        raise BadImage(f"a JPEG of more than {_MAX_SCANS} scans")
    image, box = _open(data, spec.size, limits, warn)
    if min(image.size) < _SMALL:
        warn(f"only {image.width} × {image.height} pixels: too few to show much")
    return _crop(image, box, spec)


def read_picture(data: bytes) -> Image.Image:
    """The whole picture upright, in 8-bit sRGB on white, before any resize or crop.

    Raises:
        BadImage: as `decode_image` does.
    """
    image, box = _open(data, _WHOLE, ImageLimits(), lambda _: None)
    left, top, right, bottom = map(round, box)
    return image.crop((left, top, right, bottom))


def thumbnail(data: bytes, size: int, limits: ImageLimits = ImageLimits()) -> bytes:
    """The picture upright and cropped to a square of `size` pixels, as a JPEG.

    Raises what `decode_image` raises.
    """
    pixels = decode_image(data, PixelSpec(size, (0.0,) * 3, (1.0,) * 3), limits)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "JPEG", quality=85)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """The media type of a picture that was decoded before, such as image/jpeg."""
    if is_tiff(data):
        return Image.MIME["TIFF"]
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        kind = "JPEG" if image.format in (None, "MPO") else str(image.format)
        return Image.MIME[kind]


def _open(
    data: bytes, size: int, limits: ImageLimits, warn: Callable[[str], None]
) -> tuple[Image.Image, _Box]:
    """The picture upright in sRGB, possibly at reduced scale, and the box without padding."""
    if data.startswith(_PNG):
        data = _without_large_texts(data)
    try:
        if is_tiff(data) and (deep := read_deep_tiff(data, limits.max_pixels)):
            image = upright(*deep)
            _check_shape(*image.size, limits)
            return to_srgb(image), (0, 0, *image.size)
        file, draft = _begin(data, size, limits)
        try:
            file.load()
        except OSError:
            if not nearly_whole(file, data):
                raise
            file, draft = _begin(ended(data), size, limits)
            file.load()
            warn("the JPEG is cut short: a little of it is missing")
        box = draft or (0, 0, *file.size)
        turn = orientation(file)  # after the load, since EXIF may stand at the file's end
        image = upright(file, turn)
        return to_srgb(image), _turned(box, image.size, turn)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(_unknown(data)) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        raise BadImage("the picture is broken or cut short") from error


def _unknown(data: bytes) -> str:
    for (offset, start), name in _OTHERS.items():
        if data[offset : offset + len(start)] == start:
            found = f"this is a file of the format {name}"
            break
    else:
        found = "its format is unknown"
    return f"not a picture in a known format ({_READ}): {found}; export it as JPEG or PNG"


def _begin(data: bytes, size: int, limits: ImageLimits) -> tuple[ImageFile.ImageFile, _Box | None]:
    """Reads a picture's header: the file and, at reduced scale, the box without padding."""
    file = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_shape(*file.size, limits)
    draft = file.draft(None, (_GAP * size, _GAP * size))
    return file, draft[1] if draft else None


def _without_large_texts(data: bytes) -> bytes:
    """A PNG without texts and profiles that are too large or broken; pixels are unchanged."""
    kept, total, dropped = [_PNG], 0, False
    for kind, chunk in _chunks(data):
        if kind in _TEXTS:
            length = _unpacked_length(kind, chunk[8:-4])
            total += length or 0
            if length is None or total > _MAX_TEXTS:
                dropped = True
                continue
        kept.append(chunk)
    return b"".join(kept) if dropped else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, whole chunk) of a PNG, RFC 2083 section 3.2; a broken tail comes as one last item."""
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at : at + 12 + length]
        at += 12 + length
    if at < len(data):
        yield b"", data[at:]


def _unpacked_length(kind: bytes, body: bytes) -> int | None:
    """Unpacked length of a text chunk's body in bytes; None if it is too large or broken."""
    packed = kind in (b"zTXt", b"iCCP")
    text = body.partition(b"\0")[2][1:]  # after the keyword and the method
    if kind == b"iTXt":
        packed = body.partition(b"\0")[2][:1] == b"\1"
        text = text[1:].partition(b"\0")[2].partition(b"\0")[2]  # after two language fields
    if not packed:
        return len(body) if len(body) <= _MAX_TEXT else None
    unpacker = zlib.decompressobj()
    try:
        length = len(unpacker.decompress(text, _MAX_TEXT))
    except zlib.error:
        return None
    return length if unpacker.eof else None


def _check_shape(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise BadImage(f"{width}×{height} is more than {limits.max_pixels:,} pixels")
    if max(width, height) > 100 * min(width, height):
        raise BadImage(f"{width}×{height} is too narrow a strip to classify")


def _turned(box: _Box, size: tuple[int, int], turn: int) -> _Box:
    """The box, at the top left before, after the picture was turned to `size`.

    A 1001-pixel side decoded at an eighth has 126 pixels, of which 125.125 are picture. Without the
    box the result would shift by up to half a pixel.
    """
    _, _, width, height = box
    if turn in (5, 6, 7, 8):  # turned by 90°, or mirrored in a diagonal
        width, height = height, width
    left = size[0] - width if turn in (2, 3, 6, 7) else 0  # the left side was on the right or below
    top = size[1] - height if turn in (3, 4, 7, 8) else 0
    return left, top, left + width, top + height


def _crop(image: Image.Image, box: _Box, spec: PixelSpec) -> Pixels:
    size, width, height = spec.size, box[2] - box[0], box[3] - box[1]
    scaled = int(size * max(width, height) / min(width, height))  # torchvision's rounding
    target = (size, scaled) if width <= height else (scaled, size)
    image = image.resize(target, _RESAMPLING[spec.interpolation], box, _GAP)
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    array = np.asarray(image.crop((left, top, left + size, top + size)))  # [S, S, 3]
    return np.ascontiguousarray(array.transpose(2, 0, 1))
