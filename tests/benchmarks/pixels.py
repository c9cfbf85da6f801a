"""Ways from bytes to pixels, side by side: `python -m tests.benchmarks.pixels`.

full          Pillow: all of it decoded, turned, resized, cropped; the others are compared with it
decode        adapters.pixels.decode, what the product does
simplejpeg    libjpeg-turbo at reduced scale with the same margin, resized and cropped by Pillow
torchvision   torchvision.io and v2 on tensors; no reduced scale
pyvips        libvips' thumbnail, which shrinks while it loads, with its own filters

Each is timed with one thread inside, cold of caches, in --rounds that take turns; the figure is the
median round. `2 thr` is what two threads bring over one: 2 means that the GIL is not in the way.
Differences are of 255. `peak` is what one picture adds to a fresh process. Peers that are not there
are named: `pip install 'rmadapter[bench]'`.
"""

import argparse
import io
import multiprocessing
import os
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from adapters.pixels import PixelSpec, decode_image
from tests.support.paths import SHARED

DATA = SHARED
SPEC = PixelSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
THREADS = 2


def crop(image: Image.Image) -> np.ndarray:
    """Resize and centre crop, as the product's, without its shortcuts."""
    size, (width, height) = SPEC.size, image.size
    scaled = int(size * max(width, height) / min(width, height))
    target = (size, scaled) if width <= height else (scaled, size)
    image = image.resize(target, Image.Resampling.BICUBIC)
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    array = np.asarray(image.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def full(data: bytes) -> np.ndarray:
    return crop(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def product(data: bytes) -> np.ndarray:
    return decode_image(data, SPEC)


def simplejpeg(data: bytes) -> np.ndarray:
    least = 2 * SPEC.size
    array = import_module("simplejpeg").decode_jpeg(data, "RGB", min_height=least, min_width=least)
    return crop(Image.fromarray(array))


def torchvision(data: bytes) -> np.ndarray:
    torch, tv = import_module("torch"), import_module("torchvision")
    torch.set_num_threads(1)
    file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image = tv.io.decode_image(file, tv.io.ImageReadMode.RGB, apply_exif_orientation=True)
    bicubic = tv.transforms.InterpolationMode.BICUBIC
    resize = import_module("torchvision.transforms.v2.functional").resize
    image = resize(image, [SPEC.size], bicubic, antialias=True)
    return tv.transforms.functional.center_crop(image, [SPEC.size]).numpy()


def pyvips(data: bytes) -> np.ndarray:
    os.environ["VIPS_CONCURRENCY"] = "1"
    vips = import_module("pyvips")
    vips.cache_set_max(0)
    image = vips.Image.thumbnail_buffer(data, SPEC.size, height=SPEC.size, crop="centre")
    return image.numpy().transpose(2, 0, 1)


WAYS = {
    "full": full,
    "decode": product,
    "simplejpeg": simplejpeg,
    "torchvision": torchvision,
    "pyvips": pyvips,
}


def photos() -> list[bytes]:
    """Every 160th Caltech photo, about 300×200, as it came."""
    with zipfile.ZipFile(DATA / "caltech101.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist())[::160]]


def enlarged(photo: bytes, width: int, height: int, kind: str = "JPEG") -> bytes:
    """The photo with so many pixels, and noise as fine as a sensor's."""
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.int16)
    stream = io.BytesIO()
    noisy = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    noisy.save(stream, kind, quality=90, compress_level=3)
    return stream.getvalue()


def seconds(way: Callable, files: list[bytes], threads: int = 1) -> float:
    """Seconds a picture, each of the threads working through all files."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))
        start = time.perf_counter()
        list(pool.map(way, files * threads))
        return (time.perf_counter() - start) / len(files) / threads


def working(files: list[bytes]) -> Iterator[str]:
    """The ways that are installed and read these files; says which are not."""
    for name, way in WAYS.items():
        try:
            way(files[0])
            yield name
        except ModuleNotFoundError:
            print(f"{name:12} not installed")
        except Exception:
            print(f"{name:12} does not read this format")


def compare(title: str, files: list[bytes], rounds: int) -> None:
    print(f"\n{title}, {len(files)} of {sum(map(len, files)) / len(files) / 1e6:.2f} MB")
    print(f"{'':12} {'ms':>7} {'× full':>7} {'2 thr':>7} {'max':>5} {'mean':>6}")
    names = list(working(files))
    one: dict[str, list[float]] = {name: [] for name in names}
    two: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            one[name].append(seconds(WAYS[name], files))
            two[name].append(seconds(WAYS[name], files, THREADS))
    plain = statistics.median(one["full"])
    for name in names:
        alone, both = statistics.median(one[name]), statistics.median(two[name])
        largest, mean = difference(WAYS[name], files)
        print(
            f"{name:12} {alone * 1e3:7.2f} {plain / alone:7.2f} {alone / both:7.2f}"
            f" {largest:5} {mean:6.3f}",
            flush=True,
        )


def difference(way: Callable, files: list[bytes]) -> tuple[int, float]:
    gaps = [np.abs(way(file).astype(int) - full(file)) for file in files]
    return max(int(gap.max()) for gap in gaps), float(np.mean([gap.mean() for gap in gaps]))


def peak(name: str, data: bytes, small: bytes) -> float:
    """MB that the picture adds to the most this process ever held, libraries loaded."""
    WAYS[name](small)
    before = most_held()
    WAYS[name](data)
    return (most_held() - before) / 1e3


def most_held() -> int:
    """In kB. `ru_maxrss` would count the parent's memory too: it outlives exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def compare_peaks(data: bytes, small: bytes) -> None:
    print(f"\n50-megapixel JPEG of {len(data) / 1e6:.0f} MB\n{'':12} {'peak MB':>7}")
    for name in working([small]):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"{name:12} {pool.apply(peak, (name, data, small)):7.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pixels")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    small = photos()
    compare("12-megapixel JPEG", [enlarged(photo, 4000, 3000) for photo in small[:2]], rounds)
    compare("1600×1200 JPEG", [enlarged(photo, 1600, 1200) for photo in small[:4]], rounds)
    compare("Caltech JPEGs as they are", small, rounds)
    compare("12-megapixel PNG", [enlarged(small[0], 4000, 3000, "PNG")], rounds)
    compare_peaks(enlarged(small[0], 8660, 5773), small[0])


if __name__ == "__main__":
    sys.exit(main())
