"""Whatever a picture is stored as, the model gets what a person sees: the plain 8-bit PNG's pixels.

Formats × modes × orientations, each made of one photo and compared with it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from adapters.clip import FrozenCLIP
from adapters.errors import BadImage
from adapters.pixels import ImageLimits, PixelSpec, decode_image, media_type
from adapters.srgb import to_srgb
from service.demo.__main__ import PHOTOS
from training.fit import image_features

SPEC = PixelSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PHOTO = Image.open(PHOTOS / "starfish" / "image_0001.jpg").convert("RGB")
GREY = PHOTO.convert("L")
PALETTE = PHOTO.quantize(256)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def apart(one: bytes, other: bytes) -> float:
    """The mean difference of two pictures' pixels, of 255."""
    pixels = [decode_image(data, SPEC).astype(int) for data in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def heic(name: str) -> bytes:
    """The photo as another program wrote it: pi-heif decodes alone. See the folder's README."""
    return (Path(__file__).parents[1] / f"fixtures/heic/{name}.heic").read_bytes()


def deep(mode: type[np.generic], scale: float) -> Image.Image:
    return Image.fromarray((np.asarray(GREY, np.float64) * scale).astype(mode))


def tiff(kind: type[np.generic], scale: float, image: Image.Image = PHOTO, **options: Any) -> bytes:
    """A picture as tifffile stores it, its samples multiplied and of another type."""
    values = (np.asarray(image, np.float64) * scale).astype(kind)
    if options.get("planarconfig") == 2:
        values = values.transpose(2, 0, 1)
    stream = io.BytesIO()
    kinds = {"photometric": "rgb" if values.ndim == 3 else "minisblack"}
    tifffile.imwrite(stream, values, **(kinds | options))
    return stream.getvalue()


def png(header: bytes, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from a header without its size, and rows without filters."""
    size = struct.pack(">II", *PHOTO.size)
    body = png_chunk(b"IHDR", size + header) + b"".join(extra)
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits() -> bytes:
    pixels = np.asarray(PHOTO).astype(">u2") * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(bytes([16, 2, 0, 0, 0]), zlib.compress(rows))


def in_display_p3() -> bytes:
    """The photo in another gamut, as a phone stores it, with the profile that says so."""
    wide = ImageCms.ImageCmsProfile(io.BytesIO(WIDE))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), wide, "RGB", "RGB")
    image = ImageCms.applyTransform(PHOTO, transform)
    assert image is not None
    return stored(image, "PNG", icc_profile=WIDE)


def profile_tag(kind: bytes, body: bytes) -> bytes:
    return kind + b"\0" * 4 + body + b"\0" * (-len(body) % 4)


def wide_profile() -> bytes:
    """A matrix profile with Adobe RGB's primaries (D50) and a gamma of 2.2; ICC.1, section 7."""

    def xyz(*values: float) -> bytes:
        return profile_tag(b"XYZ ", b"".join(struct.pack(">i", round(v * 65536)) for v in values))

    gamma = profile_tag(b"curv", struct.pack(">IH", 1, round(2.2 * 256)))
    text = b"a wide gamut\0"
    description = profile_tag(b"desc", struct.pack(">I", len(text)) + text + bytes(78))
    tags = {
        b"desc": description,
        b"cprt": profile_tag(b"text", b"none\0"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", at + len(body), len(tag))
        body += tag
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + table + body


WIDE = wide_profile()


def drawn(mode: str) -> Image.Image:
    """The photo in the middle of a transparent canvas, whose hidden colour is black."""
    image = PHOTO.convert("RGBA")
    alpha = Image.new("L", PHOTO.size, 0)
    alpha.paste(255, (40, 30, PHOTO.width - 40, PHOTO.height - 30))
    black = Image.new("RGBA", PHOTO.size, (0, 0, 0, 0))
    black.paste(image, mask=alpha)
    black.putalpha(alpha)
    return black if mode == "RGBA" else black.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def transparent_palette() -> Image.Image:
    return drawn("RGBA").quantize(255)


def colour_key() -> tuple[Image.Image, tuple[int, int, int]]:
    """RGB with one colour that is transparent, as PNG's tRNS has it."""
    image = Image.new("RGB", PHOTO.size, (1, 2, 3))
    box = (40, 30, PHOTO.width - 40, PHOTO.height - 30)
    image.paste(PHOTO.crop(box), box[:2])
    return image, (1, 2, 3)


LAB = ImageCms.applyTransform(
    PHOTO,
    ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    ),
)

SAME: dict[str, tuple[Callable[[], bytes], Image.Image]] = {
    "JPEG": (lambda: stored(PHOTO, "JPEG", quality=95), PHOTO),
    "progressive JPEG": (lambda: stored(PHOTO, "JPEG", quality=95, progressive=True), PHOTO),
    "grey JPEG": (lambda: stored(GREY, "JPEG", quality=95), GREY),
    "CMYK JPEG": (lambda: stored(PHOTO.convert("CMYK"), "JPEG", quality=95), PHOTO),
    "MPO": (
        lambda: stored(
            PHOTO, "MPO", quality=95, save_all=True, append_images=[GREY.convert("RGB")]
        ),
        PHOTO,
    ),
    "WebP": (lambda: stored(PHOTO, "WEBP", quality=95), PHOTO),
    "lossless WebP": (lambda: stored(PHOTO, "WEBP", lossless=True), PHOTO),
    "GIF": (lambda: stored(PALETTE, "GIF"), PALETTE),
    "BMP": (lambda: stored(PHOTO, "BMP"), PHOTO),
    "AVIF": (lambda: stored(PHOTO, "AVIF", quality=95), PHOTO),
    "TIFF": (lambda: stored(PHOTO, "TIFF"), PHOTO),
    "TIFF, LZW": (lambda: stored(PHOTO, "TIFF", compression="tiff_lzw"), PHOTO),
    "TIFF, deflate": (lambda: stored(PHOTO, "TIFF", compression="tiff_adobe_deflate"), PHOTO),
    "TIFF, JPEG": (lambda: stored(PHOTO, "TIFF", compression="jpeg", quality=95), PHOTO),
    "TIFF of two pages": (
        lambda: stored(PHOTO, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        PHOTO,
    ),
    "TIFF, CMYK": (lambda: stored(PHOTO.convert("CMYK"), "TIFF"), PHOTO),
    "TIFF, Lab": (lambda: stored(LAB, "TIFF"), PHOTO),
    "TIFF, YCbCr": (lambda: stored(PHOTO.convert("YCbCr"), "TIFF"), PHOTO),
    "TIFF, 16-bit grey": (lambda: stored(deep(np.uint16, 257), "TIFF"), GREY),
    "TIFF, float grey in 0…1": (lambda: stored(deep(np.float32, 1 / 255), "TIFF"), GREY),
    "TIFF, float grey in 0…255": (lambda: stored(deep(np.float32, 1), "TIFF"), GREY),
    "TIFF, signed 16-bit grey": (lambda: tiff(np.int16, 128, GREY), GREY),
    "TIFF, 12-bit grey in 16": (lambda: stored(deep(np.uint16, 16), "TIFF"), GREY),
    "PNG, 12-bit grey in 16": (lambda: stored(deep(np.uint16, 16), "PNG"), GREY),
    "TIFF, 12-bit RGB in 16": (lambda: tiff(np.uint16, 16), PHOTO),
    "TIFF, 14-bit grey that states it": (
        lambda: tiff(np.uint16, 64, GREY, extratags=[(281, "H", 1, 16383, True)]),
        GREY,
    ),
    "TIFF, 14-bit RGB that states it": (
        lambda: tiff(np.uint16, 64, extratags=[(281, "H", 3, (16383,) * 3, True)]),
        PHOTO,
    ),
    "TIFF, 16-bit RGB": (lambda: tiff(np.uint16, 257), PHOTO),
    "TIFF, 16-bit RGB, big-endian": (lambda: tiff(np.uint16, 257, byteorder=">"), PHOTO),
    "TIFF, 16-bit RGB, deflate": (
        lambda: tiff(np.uint16, 257, compression="zlib", predictor=True),
        PHOTO,
    ),
    "TIFF, 16-bit RGB, planes apart": (lambda: tiff(np.uint16, 257, planarconfig=2), PHOTO),
    "TIFF, 16-bit RGB in tiles": (lambda: tiff(np.uint16, 257, tile=(64, 64)), PHOTO),
    "TIFF, 16-bit RGB, BigTIFF": (lambda: tiff(np.uint16, 257, bigtiff=True), PHOTO),
    "TIFF, 16-bit RGB with alpha": (
        lambda: tiff(np.uint16, 257, drawn("RGBA"), extrasamples=[2]),
        on_white(drawn("RGBA")),
    ),
    "TIFF, float RGB in 0…1": (lambda: tiff(np.float32, 1 / 255), PHOTO),
    "TIFF, float RGB a little above 1": (lambda: tiff(np.float32, 1.02 / 255), PHOTO),
    "TIFF, float RGB in 0…255": (lambda: tiff(np.float32, 1), PHOTO),
    "TIFF, float RGB, deflate": (lambda: tiff(np.float32, 1 / 255, compression="zlib"), PHOTO),
    "TIFF, float RGB with alpha": (
        lambda: tiff(np.float32, 1 / 255, drawn("RGBA"), extrasamples=[2]),
        on_white(drawn("RGBA")),
    ),
    "TIFF, half-float RGB": (lambda: tiff(np.float16, 1 / 255), PHOTO),
    "TIFF, double RGB": (lambda: tiff(np.float64, 1 / 255), PHOTO),
    "TIFF, half-float grey": (lambda: tiff(np.float16, 1 / 255, GREY), GREY),
    "TIFF, double grey": (lambda: tiff(np.float64, 1 / 255, GREY), GREY),
    "TIFF, 16-bit grey, white is 0": (
        lambda: tiff(np.int16, 128, ImageOps.invert(GREY), photometric="miniswhite"),
        GREY,
    ),
    "TIFF, 32-bit grey": (lambda: stored(deep(np.int32, 257), "TIFF"), GREY),
    "PNG, grey": (lambda: stored(GREY, "PNG"), GREY),
    "PNG, 16-bit grey": (lambda: stored(deep(np.uint16, 257), "PNG"), GREY),
    "PNG, 16-bit RGB": (png_of_16_bits, PHOTO),
    "PNG, palette": (lambda: stored(PALETTE, "PNG"), PALETTE),
    "PNG, wide gamut": (in_display_p3, PHOTO),
    "PNG, broken profile": (lambda: stored(PHOTO, "PNG", icc_profile=b"not a profile"), PHOTO),
    "PNG, alpha": (lambda: stored(drawn("RGBA"), "PNG"), on_white(drawn("RGBA"))),
    "PNG, grey and alpha": (lambda: stored(drawn("LA"), "PNG"), on_white(drawn("LA"))),
    "PNG, palette and alpha": (
        lambda: stored(transparent_palette(), "PNG"),
        on_white(transparent_palette()),
    ),
    "PNG, transparent colour": (
        lambda: stored(colour_key()[0], "PNG", transparency=colour_key()[1]),
        on_white(drawn("RGBA")),
    ),
    "WebP, alpha": (
        lambda: stored(drawn("RGBA"), "WEBP", lossless=True),
        on_white(drawn("RGBA")),
    ),
    "GIF, alpha": (
        lambda: stored(drawn("RGBA"), "GIF"),
        on_white(Image.open(io.BytesIO(stored(drawn("RGBA"), "GIF")))),
    ),
    "TIFF, alpha": (lambda: stored(drawn("RGBA"), "TIFF"), on_white(drawn("RGBA"))),
    "AVIF, alpha": (lambda: stored(drawn("RGBA"), "AVIF", quality=95), on_white(drawn("RGBA"))),
    "HEIC": (lambda: heic("photo"), PHOTO),
    "HEIC, grey": (lambda: heic("grey"), GREY),
    "HEIC, turned": (lambda: heic("turned"), PHOTO),
    "HEIC, 10 bits": (lambda: heic("ten_bits"), PHOTO),
    "HEIC, alpha": (lambda: heic("alpha"), on_white(drawn("RGBA"))),
    "alpha that is 0 everywhere": (
        lambda: stored(with_alpha(0), "PNG"),
        PHOTO,
    ),
    "alpha that is 255 everywhere": (lambda: stored(with_alpha(255), "PNG"), PHOTO),
}


def with_alpha(value: int) -> Image.Image:
    image = PHOTO.copy()
    image.putalpha(value)
    return image


@pytest.mark.parametrize("name", SAME)
def test_a_picture_has_the_pixels_of_the_plain_png(clip: FrozenCLIP, name: str) -> None:
    make, plain = SAME[name]
    given, expected = make(), stored(plain.convert("RGB"), "PNG")
    assert apart(given, expected) < 4
    pixels = np.stack([decode_image(given, SPEC), decode_image(expected, SPEC)])
    one, other = image_features(clip, None, torch.from_numpy(pixels))
    assert float(one @ other) > 0.99


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_of_every_format_is_turned_upright(kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    jpeg = stored(PHOTO, "JPEG", quality=95, exif=exif)
    data = stored(PHOTO, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))
    assert apart(data, stored(upright, "PNG")) < 8


@pytest.mark.parametrize("tag", [0x0128, 0x011A, 0x8769, 0x010F, 0x9003], ids=hex)
@pytest.mark.parametrize("value", ["inch", 7, b"\0\1\2"], ids=["text", "number", "bytes"])
def test_an_odd_tag_beside_the_orientation_breaks_nothing(tag: int, value: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = stored(PHOTO, "JPEG", exif=exif)
    entry = struct.pack("<HHI4s", tag, 2, 4, str(value).encode()[:3].ljust(4, b"\0"))
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + turned + entry + b"\xff\xff\xff\xff"
    odd = stored(PHOTO, "JPEG", exif=block)
    assert np.array_equal(decode_image(odd, SPEC), decode_image(plain, SPEC))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP"])
def test_large_metadata_of_a_png_is_left_out(kind: bytes) -> None:
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"tEXt": b"k\0", b"iCCP": b"k\0\0"}
    text = np.random.default_rng(0).integers(65, 91, 2_000_000, np.uint8).tobytes()
    body = heads[kind] + (text if kind == b"tEXt" else zlib.compress(text))
    plain = stored(PHOTO, "PNG")
    data = plain[:33] + png_chunk(kind, body) + plain[33:]
    assert np.array_equal(decode_image(data, SPEC), decode_image(plain, SPEC))


def test_two_different_16_bit_photos_stay_different() -> None:
    other = Image.open(PHOTOS / "crab" / "image_0001.jpg").convert("L")
    one, two = (
        decode_image(stored(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"), SPEC)
        for grey in (GREY, other)
    )
    assert np.abs(one.astype(int) - two.astype(int)).mean() > 20
    assert len(np.unique(one)) > 100


def test_the_profile_of_a_phone_changes_the_pixels_that_it_should() -> None:
    """Without the conversion the same bytes are duller."""
    as_stored = Image.open(io.BytesIO(in_display_p3()))
    dull = as_stored.copy()
    dull.info.pop("icc_profile")
    difference = np.abs(np.asarray(to_srgb(as_stored)).astype(int) - np.asarray(dull).astype(int))
    assert difference.max() > 8


@pytest.mark.parametrize("left_out", [2, 40])
def test_a_jpeg_without_its_last_bytes_is_read_with_a_warning(left_out: int) -> None:
    whole, said = stored(PHOTO, "JPEG", quality=95), list[str]()
    pixels = decode_image(whole[:-left_out], SPEC, warn=said.append)
    assert np.abs(pixels.astype(int) - decode_image(whole, SPEC).astype(int)).mean() < 8
    assert len(said) == 1
    assert "cut short" in said[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("part", [0.999, 0.95, 0.9])
def test_a_progressive_jpeg_that_lacks_only_its_finest_scans_is_read_with_a_warning(
    clip: FrozenCLIP, mode: str, part: float
) -> None:
    whole = stored(PHOTO.convert(mode), "JPEG", quality=95, progressive=True)
    said: list[str] = []
    pixels = [decode_image(whole, SPEC)]
    pixels.append(decode_image(whole[: int(len(whole) * part)], SPEC, warn=said.append))
    one, other = image_features(clip, None, torch.from_numpy(np.stack(pixels)))
    assert float(one @ other) > 0.99
    assert said == ["the JPEG is cut short: a little of it is missing"]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.5, 0.3, 0.1])
def test_half_a_jpeg_is_refused(progressive: bool, part: float) -> None:
    whole = stored(PHOTO, "JPEG", quality=95, progressive=progressive)
    with pytest.raises(BadImage, match="broken or cut short"):
        decode_image(whole[: int(len(whole) * part)], SPEC)


@pytest.mark.parametrize("left_out", [2, 40, 5000])
def test_a_heic_that_is_cut_short_is_refused(left_out: int) -> None:
    with pytest.raises(BadImage, match="broken or cut short"):
        decode_image(heic("photo")[:-left_out], SPEC)


def test_a_whole_picture_has_no_warning() -> None:
    said: list[str] = []
    decode_image(stored(PHOTO, "JPEG"), SPEC, warn=said.append)
    assert not said


def test_a_limit_above_pillows_own_is_honoured() -> None:
    large = stored(Image.new("1", (20_000, 10_000)), "PNG")
    assert decode_image(large, SPEC, ImageLimits(max_pixels=200_000_000)).shape == (3, 224, 224)
    with pytest.raises(BadImage, match="more than 50,000,000 pixels"):
        decode_image(large, SPEC)


def test_an_mpo_is_given_back_as_the_jpeg_that_it_is() -> None:
    data = stored(PHOTO, "MPO", save_all=True, append_images=[GREY.convert("RGB")])
    assert media_type(data) == "image/jpeg"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\x00\x00\x00\x20ftypcrx heix", "camera raw"),
        (b"\x00\x00\x00\x20ftypisom", "video"),
        (b"\x00\x00\x00\x20ftypheic", "HEIC, broken"),
        (b"\x00\x00\x00\x20ftypavif", "AVIF, broken"),
        (b"8BPS\0\1", "Photoshop"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_to_do(data: bytes, name: str) -> None:
    with pytest.raises(BadImage, match=f"format {name}.*export it as JPEG or PNG"):
        decode_image(data, SPEC)


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of one short tag."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    changed = bytearray(data)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<H", changed, entry + 8, value)
            return bytes(changed)
    raise AssertionError(f"there is no tag {tag}")


def test_a_tiff_of_a_form_that_is_not_read_is_called_that() -> None:
    """Pillow has no mode for floating-point colours, and LZW may unpack to any size."""
    lzw = with_tag(tiff(np.float32, 1 / 255), 259, 5)
    with pytest.raises(
        BadImage, match=r"TIFF, in a form that is not read.*export it as JPEG or PNG"
    ):
        decode_image(lzw, SPEC)


def test_a_deep_tiff_is_turned_upright() -> None:
    turned = tiff(np.uint16, 257, extratags=[(274, "H", 1, 6, True)])
    upright = PHOTO.transpose(Image.Transpose.ROTATE_270)
    assert apart(turned, stored(upright, "PNG")) < 1


def test_a_deep_tiffs_profile_is_applied() -> None:
    wide = in_display_p3()
    profile = Image.open(io.BytesIO(wide)).info["icc_profile"]
    image = Image.open(io.BytesIO(wide)).convert("RGB")
    assert apart(tiff(np.uint16, 257, image, iccprofile=profile), wide) < 1


def test_a_deep_tiff_is_given_back_as_a_tiff() -> None:
    assert media_type(tiff(np.float32, 1 / 255)) == "image/tiff"


def test_a_deep_tiff_of_too_many_pixels_is_refused_before_it_is_unpacked() -> None:
    pixels = GREY.width * GREY.height
    with pytest.raises(BadImage, match="pixels"):
        decode_image(tiff(np.float64, 1), SPEC, ImageLimits(max_pixels=pixels))
    with pytest.raises(BadImage, match="pixels"):
        decode_image(tiff(np.uint16, 257), SPEC, ImageLimits(max_pixels=pixels - 1))


def test_a_tiff_that_packs_more_than_its_size_says_is_refused() -> None:
    whole = tiff(np.uint16, 257, compression="zlib", rowsperstrip=10_000)
    packed = zlib.compress(b"\0" * 50_000_000)
    (at,) = tifffile.TiffFile(io.BytesIO(whole)).pages.first.dataoffsets
    longer = with_tag(whole[:at] + packed, 279, 0)
    tags = tifffile.TiffFile(io.BytesIO(whole)).pages.first.tags
    counted = bytearray(longer)
    struct.pack_into("<I", counted, tags[279].valueoffset, len(packed))
    with pytest.raises(BadImage, match="more is packed"):
        decode_image(bytes(counted), SPEC)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.99])
def test_a_deep_tiff_that_is_cut_short_is_refused(left: float) -> None:
    whole = tiff(np.float32, 1 / 255)
    with pytest.raises(BadImage):
        decode_image(whole[: max(8, int(left * len(whole)))], SPEC)
