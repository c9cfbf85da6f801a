"""One function makes pixels of bytes, and it is the one that CLIP was trained with."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from adapters.clip import FrozenCLIP
from adapters.errors import BadImage
from adapters.pixels import ImageLimits, PixelSpec, decode_image
from training.data import Sample
from training.fit import image_features

SPEC = PixelSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPEN_CLIPS = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])


def picture(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "size", [(224, 224), (300, 200), (200, 301), (97, 1013), (1023, 767), (225, 224), (3, 2)]
)
def test_pixels_are_open_clips_to_the_bit(size: tuple[int, int]) -> None:
    data = picture(*size)
    expected = np.asarray(OPEN_CLIPS(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.array_equal(decode_image(data, SPEC), expected.transpose(2, 0, 1))


def scene(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    """Shapes of all sizes with little noise, as photos have."""
    generator = np.random.default_rng(0)
    low = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(low.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + generator.integers(-6, 7, smooth.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def in_full(data: bytes) -> np.ndarray:
    """The plain way: the whole picture decoded, turned, resized, cropped."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(OPEN_CLIPS(upright)).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1600, 1200), (1001, 1999), (4000, 3000), (3000, 900)], ids=str)
def test_large_pictures_are_decoded_small_and_look_the_same(
    size: tuple[int, int], kind: str
) -> None:
    data = scene(*size, kind)
    difference = np.abs(decode_image(data, SPEC).astype(int) - in_full(data).astype(int))
    assert difference.mean() < 1.0
    assert difference.max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photo_is_turned_whichever_way_it_lies(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = scene(2001, 1003, exif=exif)
    difference = np.abs(decode_image(data, SPEC).astype(int) - in_full(data).astype(int))
    assert difference.mean() < 1.0


def test_a_large_photo_has_the_features_of_its_full_size(clip: FrozenCLIP) -> None:
    data = scene(4000, 3000)
    pixels = torch.from_numpy(np.stack([decode_image(data, clip.spec), in_full(data)]))
    small, full = image_features(clip, None, pixels)
    assert small @ full > 0.999


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    data = picture(30, 40, progressive=True)
    assert decode_image(data, SPEC).shape == (3, 224, 224)
    start = data.rindex(b"\xff\xda")
    endless = data[:start] + data[start:-2] * 600 + data[-2:]
    with pytest.raises(BadImage, match="more than 500 scans"):
        decode_image(endless, SPEC)


def test_carried_photos_are_open_clips_to_the_bit(samples: list[Sample]) -> None:
    for sample in samples[::10]:
        expected = np.asarray(OPEN_CLIPS(Image.open(io.BytesIO(sample.data)).convert("RGB")))
        assert np.array_equal(decode_image(sample.data, SPEC), expected.transpose(2, 0, 1))


def test_a_phones_rotation_is_applied() -> None:
    upright = Image.open(io.BytesIO(picture(300, 200, "PNG")))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stream = io.BytesIO()
    upright.save(stream, "PNG", exif=exif)
    turned = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_270).save(turned, "PNG")
    assert np.array_equal(
        decode_image(stream.getvalue(), SPEC), decode_image(turned.getvalue(), SPEC)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_known_formats_are_read(kind: str) -> None:
    assert decode_image(picture(30, 40, kind), SPEC).shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    stream = io.BytesIO()
    image = Image.new("RGB", (30, 40), "red").convert("L" if mode == "I;16" else mode)
    image.save(stream, "JPEG" if mode == "CMYK" else "PNG")
    assert decode_image(stream.getvalue(), SPEC).shape == (3, 224, 224)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "not a picture in a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a known format"),
        (picture(300, 200)[:2000], "broken or cut short"),
        (picture(300, 200, "PNG")[:2000], "broken or cut short"),
        (b"%PDF-1.7", "not a picture in a known format .* of the format PDF; export it as JPEG"),
        (bomb(), "more than 50,000,000 pixels"),
        (picture(1, 2000, "PNG"), "too narrow"),
    ],
    ids=["empty", "text", "svg", "cut jpeg", "cut png", "pdf", "bomb", "strip"],
)
def test_what_is_not_a_picture_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode_image(data, SPEC)


def test_bytes_and_pixels_have_a_limit() -> None:
    data = picture(30, 40)
    with pytest.raises(BadImage, match="bytes, more than the 100 allowed"):
        decode_image(data, SPEC, ImageLimits(max_bytes=100))
    with pytest.raises(BadImage, match="30×40 is more than 1,199 pixels"):
        decode_image(data, SPEC, ImageLimits(max_pixels=1199))


@pytest.mark.parametrize(("size", "told"), [((2, 2), True), ((200, 31), True), ((32, 32), False)])
def test_a_picture_of_few_pixels_is_read_and_told(size: tuple[int, int], told: bool) -> None:
    file, said = io.BytesIO(), list[str]()
    Image.new("RGB", size, (10, 20, 30)).save(file, "PNG")
    assert decode_image(file.getvalue(), SPEC, warn=said.append).shape == (3, SPEC.size, SPEC.size)
    assert bool(said) == told
    assert all(f"{size[0]} × {size[1]} pixels" in text for text in said)
