"""Converts a picture as Pillow opened it to 8-bit sRGB, upright, on white.

The model gets what a person sees: depths above 8 bits are scaled by their range, transparent areas
become white, and wide-gamut colours are converted. Unreadable metadata is ignored, since the
pixels are still right.
"""

import functools
import io
from contextlib import suppress
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageCms

from adapters.depth import MAX_SAMPLE_TAGS, eight_bits

_TURNS = {  # EXIF's orientation → what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 3
_PROFILES = 64  # colour profiles whose transforms are cached


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of a loaded picture, 1 to 8; 1 if it cannot be read."""
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's EXIF reader raises many kinds of errors for a broken block
        return 1
    return value if value in _TURNS else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Turns a picture by its orientation, 1 to 8.

    `ImageOps.exif_transpose` also writes the EXIF block back and fails if a tag is invalid.
    """
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def to_srgb(image: Image.Image) -> Image.Image:
    """Converts a loaded picture of any mode to mode RGB in sRGB, on white."""
    if image.mode == "RGB" and not {"transparency", "icc_profile"} & image.info.keys():
        return image
    profile = image.info.get("icc_profile")
    image = _flat(_eight_bits(image))
    if image.mode == "LAB":
        return _converted(image, _lab_transform())
    transform = _transform(profile, image.mode) if isinstance(profile, bytes) else None
    if transform is not None:
        return _converted(image, transform)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16-bit, 32-bit and float greys to 8 bits, by the range that they use."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)
    grey = eight_bits(values, _stated_top(image))
    if _white_is_zero(image):
        grey = 255 - grey
    picture = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's one transparent grey, of 16 bits
        picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture


def _stated_top(image: Image.Image) -> float | None:
    """The largest value of a TIFF's samples, if it states one."""
    tags = getattr(image, "tag_v2", {})
    for tag in MAX_SAMPLE_TAGS:
        with suppress(KeyError, TypeError, ValueError):
            stated = tags[tag]
            return float(stated[0] if isinstance(stated, tuple) else stated)
    return None


def _white_is_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _flat(image: Image.Image) -> Image.Image:
    """Composites onto white; a fully transparent picture keeps its colours.

    Some opaque 32-bit BMPs have an alpha channel of 0.
    """
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "transparency" in image.info:
        image = _with_alpha(image)
    if image.mode not in ("LA", "PA", "RGBA"):
        return image
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() in ((0, 0), (255, 255)):
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    """Turns `transparency`, which is one colour or a palette's alphas, into an alpha channel."""
    clear = image.info["transparency"]
    if isinstance(clear, tuple) and max(clear) > 255:  # a 16-bit PNG, which Pillow reads as 8-bit
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    try:
        return image.convert("RGBA")
    except (ValueError, TypeError):  # a value that the mode cannot hold
        image.info.pop("transparency", None)
        return image


def _converted(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    return cast(Image.Image, ImageCms.applyTransform(image, transform))


@functools.lru_cache(_PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if it is sRGB, broken, or for another mode.

    Transforms are cached, since pictures of one camera share a profile, and making a transform
    takes longer than applying it to a small picture.
    """
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = own.profile.xcolor_space.strip()
        if space != {"RGB": "RGB", "CMYK": "CMYK"}.get(mode):
            return None
        if space == "RGB" and "sRGB" in (own.profile.profile_description or ""):
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


@functools.lru_cache(1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
