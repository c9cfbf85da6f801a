"""A picture as Pillow opened it → 8-bit sRGB, upright, on white.

What a person sees is what the model gets: depths above 8 bits are scaled by their range, what is
transparent lies on white, and wide-gamut colours are converted. Metadata that cannot be read is
ignored, since it does not make the pixels wrong.
"""

import functools
import io
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

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
_PROFILES = 64  # colour profiles whose transforms are kept


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of a loaded picture, 1 to 8; 1 where it cannot be read."""
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's EXIF reader raises whatever a broken block leads it to
        return 1
    return value if value in _TURNS else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Turns a picture by its orientation, 1 to 8.

    `ImageOps.exif_transpose` also writes the EXIF block back, and fails where one tag is odd.
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
    """Greys of 16 or 32 bits and floats, scaled to mode L by the range that they are stored in."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (values >> 8).astype(np.uint8)
    else:
        grey = _scaled(values.astype(np.float32), image.mode == "F")
    if _white_is_zero(image):
        grey = 255 - grey
    picture = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's one transparent grey, of 16 bits
        picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture


def _scaled(values: NDArray[np.float32], real: bool) -> NDArray[np.uint8]:
    """To 0…255: by 1 for reals in 0…1, by 255 or 65,535 for what fits there, else by the span."""
    values = np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    tops = [top for top in ((1.0,) if real else ()) + (255.0, 65_535.0) if high <= top]
    if low >= 0 and tops:
        low, high = 0.0, tops[0]
    values -= low
    values *= 255 / (high - low) if high > low else 0.0
    return np.rint(values, out=values).astype(np.uint8)


def _white_is_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _flat(image: Image.Image) -> Image.Image:
    """Composited onto white; where all is transparent, the colours as they are.

    Some 32-bit BMPs leave the alpha channel at 0 and mean an opaque picture.
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
    """The one colour, or the palette's alphas, that `transparency` names, as a channel."""
    clear = image.info["transparency"]
    if isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit PNG, which Pillow reads as 8
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
    """From a picture's own profile to sRGB; None where it is sRGB already, broken, or another's.

    A picture of one camera has the profile of the last one: making a transform takes longer than
    applying it to a small picture.
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
