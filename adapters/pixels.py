"""Bytes → pixels: the one preprocessing function of fitting, serving and every backend."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from adapters.errors import BadImage

Pixels = NDArray[np.uint8]  # [3, S, S], RGB

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what phones, browsers and scanners write
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


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
    max_pixels: int = 50_000_000  # a 50-megapixel photo, 150 MB in memory


def decode(data: bytes, spec: PixelSpec, limits: ImageLimits = ImageLimits()) -> Pixels:
    """Decodes one picture upright, resizes its shortest side to `spec.size` and crops the centre.

    Returns:
        uint8 [3, S, S], equal to torchvision's Resize and CenterCrop on the PIL image.

    Raises:
        BadImage: empty, unknown format, cut short, or past a limit; says which.
    """
    if not data:
        raise BadImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise BadImage(f"{len(data):,} bytes, more than the {limits.max_bytes:,} allowed")
    return _crop(_open(data, limits), spec)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: our limit is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > limits.max_pixels:
                raise BadImage(f"{width}×{height} is more than {limits.max_pixels:,} pixels")
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {limits.max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        raise BadImage("the picture is broken or cut short") from error


def _crop(image: Image.Image, spec: PixelSpec) -> Pixels:
    size, (width, height) = spec.size, image.size
    short, long = min(width, height), max(width, height)
    if long > 100 * short:
        raise BadImage(f"{width}×{height} is too narrow a strip to classify")
    scaled = int(size * long / short)  # torchvision's rounding
    target = (size, scaled) if width <= height else (scaled, size)
    if target != image.size:
        image = image.resize(target, _RESAMPLING[spec.interpolation])
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    array = np.asarray(image.crop((left, top, left + size, top + size)))  # [S, S, 3]
    return np.ascontiguousarray(array.transpose(2, 0, 1))
