"""TIFFs for which Pillow has no mode: floating-point colours, half and double floats, 16-bit RGB.

Pillow has no mode of more than 8 bits per colour, so it refuses floats, and keeps the upper 8 bits
of 16, which leaves 12-bit data black. tifffile reads the samples as they are. It is used for data
that are uncompressed or deflated; of other compressions it may unpack more than the limits allow.
"""

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffFile, TiffPage

from adapters.depth import MAX_SAMPLE_TAGS, eight_bits
from adapters.errors import BadImage

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF
_NONE, _DEFLATE = 1, (8, 32946)  # compressions
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # photometric interpretations
_ORIENTATION, _PROFILE = 274, 34675  # tags
_TRANSPOSED = {"YX": (0, 1), "YXS": (0, 1, 2), "SYX": (1, 2, 0)}  # of one page, by tifffile's axes
_MAX_SAMPLE_BYTES = 8  # per pixel of the limit: 16-bit RGBA; floats may have half the pixels


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return data.startswith(_MAGIC)


def read_deep_tiff(data: bytes, max_pixels: int) -> tuple[Image.Image, int] | None:
    """The first page of a TIFF that Pillow cannot show rightly.

    Args:
        data: the file as it was sent.
        max_pixels: the largest picture that is unpacked.

    Returns:
        The picture, mode L, LA, RGB or RGBA, and its orientation, 1 to 8; the colour profile is in
        the picture's `info`. None for a TIFF that Pillow reads, or that cannot be read here.

    Raises:
        BadImage: more is packed in it than its size says, or allowed.
    """
    try:
        with TiffFile(io.BytesIO(data), _multifile=False) as file:
            page = file.pages.first
            if not isinstance(page, TiffPage) or not _is_deep(page):
                return None
            _check_size(page, data, max_pixels)
            values = page.asarray(maxworkers=1)
            return _picture(page, values.transpose(_TRANSPOSED[page.axes])), _orientation(page)
    except BadImage:
        raise
    except Exception:  # tifffile raises many kinds of errors; Pillow's are then told
        return None


def _is_deep(page: TiffPage) -> bool:
    if page.axes not in _TRANSPOSED or page.dtype is None:
        return False
    if page.compression not in (_NONE, *_DEFLATE) or page.samplesperpixel > 4:
        return False
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        return False
    of_pillow = page.samplesperpixel == 1 and page.dtype in (np.uint16, np.int32, np.float32)
    return page.dtype.itemsize > 1 and not of_pillow


def _check_size(page: TiffPage, data: bytes, max_pixels: int) -> None:
    """Raises BadImage before anything large is unpacked."""
    height, width = page.imagelength, page.imagewidth
    if page.nbytes > _MAX_SAMPLE_BYTES * max_pixels or width * height > max_pixels:
        raise BadImage(f"{width}×{height} of {page.dtype} is more than {max_pixels:,} pixels allow")
    if page.compression == _NONE:
        return
    most = page.nbytes  # a strip or a tile may be padded, yet never beyond a whole picture
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        unpacker = zlib.decompressobj()
        unpacked = len(unpacker.decompress(data[start : start + length], most + 1))
        if unpacked > most:
            raise BadImage("more is packed in this TIFF than its size says")


def _picture(page: TiffPage, values: NDArray[Any]) -> Image.Image:
    """[H, W] or [H, W, S] of any depth → 8 bits."""
    stated = [page.tags.valueof(tag) for tag in MAX_SAMPLE_TAGS]
    top = next((float(np.max(value)) for value in stated if value), None)
    colours = 3 if page.photometric == _RGB else 1
    values = values.reshape(*values.shape[:2], -1)
    shown = eight_bits(values[..., :colours], top)
    if page.photometric == _WHITE_IS_ZERO:
        shown = 255 - shown
    if page.extrasamples and values.shape[2] > colours:
        shown = np.concatenate([shown, eight_bits(values[..., colours : colours + 1], top)], axis=2)
    image = Image.fromarray(
        np.ascontiguousarray(shown.squeeze(2) if shown.shape[2] == 1 else shown)
    )
    profile = page.tags.valueof(_PROFILE)
    if isinstance(profile, bytes):
        image.info["icc_profile"] = profile
    return image


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, default=1)
    return int(value) if value in range(1, 9) else 1
