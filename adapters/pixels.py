"""Bytes → pixels: the one preprocessing function of fitting, serving and every backend.

Pillow alone decodes. It reads every format here, with the resize that CLIP was trained with, and
its libjpeg-turbo unpacks large photos at a half, a quarter or an eighth of their size. simplejpeg
is the same library and no faster; torchvision has no reduced scale and rounds otherwise; libvips'
filters are others. `python -m tests.benchmarks.pixels` measures them side by side.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from adapters.errors import BadImage

Pixels = NDArray[np.uint8]  # [3, S, S], RGB
_Box = tuple[float, float, float, float]  # left, top, right, bottom

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what phones, browsers and scanners write
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
# How many times the target a picture keeps before the exact resize, where libjpeg scales while it
# decodes and where a box filter shrinks other formats. Of 3 Pillow says that nobody sees it; CLIP
# does not either (a cosine above 0.999), while 2 shows in its features.
_GAP = 3

# Each scan is a pass over the whole picture. Encoders write ten; 20 MB of something else in a file,
# such as a phone's film behind its photo, hold the two bytes 300 times by chance.
_JPEG, _SCAN, _MAX_SCANS = b"\xff\xd8", b"\xff\xda", 500

# Pillow warns of odd metadata and large pictures; what matters here is refused below. Said once for
# the process: `catch_warnings` in threads that overlap leaves every later warning silent.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """What a model wants: shortest side to `size`, centre crop, then (x/255 − mean)/std."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest picture that is decoded: bytes as sent, pixels as unpacked."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000  # a 50-megapixel photo, 200 MB if not a JPEG


def decode(data: bytes, spec: PixelSpec, limits: ImageLimits = ImageLimits()) -> Pixels:
    """Decodes one picture upright, resizes its shortest side to `spec.size` and crops the centre.

    Returns:
        uint8 [3, S, S], equal to torchvision's Resize and CenterCrop on the PIL image while the
        shortest side is under 5·S, and as good as equal above (a mean difference under 1 of 255).

    Raises:
        BadImage: empty, unknown format, cut short, or past a limit; says which.
    """
    if not data:
        raise BadImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise BadImage(f"{len(data):,} bytes, more than the {limits.max_bytes:,} allowed")
    if data.startswith(_JPEG) and data.count(_SCAN) > _MAX_SCANS:
        raise BadImage(f"a JPEG of more than {_MAX_SCANS} scans")
    image, box = _open(data, spec.size, limits)
    return _crop(image, box, spec)


def thumbnail(data: bytes, size: int, limits: ImageLimits = ImageLimits()) -> bytes:
    """The picture upright and cropped to a square of `size` pixels, as a JPEG.

    Raises what `decode` raises.
    """
    pixels = decode(data, PixelSpec(size, (0.0,) * 3, (1.0,) * 3), limits)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "JPEG", quality=85)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """What the bytes of a picture that was decoded before are: image/jpeg, …"""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return Image.MIME[image.format or "JPEG"]


def _open(data: bytes, size: int, limits: ImageLimits) -> tuple[Image.Image, _Box]:
    """The picture upright in RGB, maybe at reduced scale, and the part of it that is picture."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_shape(*image.size, limits)
        whole = (0, 0, *image.size)
        draft = image.draft(None, (_GAP * size, _GAP * size))
        box = _turn_upright(image, draft[1] if draft else whole)
        return image if image.mode == "RGB" else image.convert("RGB"), box
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {limits.max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        raise BadImage("the picture is broken or cut short") from error


def _check_shape(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise BadImage(f"{width}×{height} is more than {limits.max_pixels:,} pixels")
    if max(width, height) > 100 * min(width, height):
        raise BadImage(f"{width}×{height} is too narrow a strip to classify")


def _turn_upright(image: Image.Image, box: _Box) -> _Box:
    """Loads and turns the picture as its EXIF says; returns where the box, at its top left, went.

    A 1001-pixel side is decoded to an eighth in 126 pixels, of which 125.125 are picture. Taken for
    126, everything would shift by up to half a pixel of the result.
    """
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # after load: it may stand last
    ImageOps.exif_transpose(image, in_place=True)
    _, _, width, height = box
    if orientation in (5, 6, 7, 8):  # turned by 90°, or mirrored in a diagonal
        width, height = height, width
    left = image.width - width if orientation in (2, 3, 6, 7) else 0  # the left was right or below
    top = image.height - height if orientation in (3, 4, 7, 8) else 0
    return left, top, left + width, top + height


def _crop(image: Image.Image, box: _Box, spec: PixelSpec) -> Pixels:
    size, width, height = spec.size, box[2] - box[0], box[3] - box[1]
    scaled = int(size * max(width, height) / min(width, height))  # torchvision's rounding
    target = (size, scaled) if width <= height else (scaled, size)
    image = image.resize(target, _RESAMPLING[spec.interpolation], box, _GAP)
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    array = np.asarray(image.crop((left, top, left + size, top + size)))  # [S, S, 3]
    return np.ascontiguousarray(array.transpose(2, 0, 1))
