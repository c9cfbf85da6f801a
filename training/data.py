"""Labelled pictures: from a folder or archive with a folder per class to pixels and labels."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters.errors import BadDataset, BadImage
from adapters.names import normal_name
from adapters.pixels import ImageLimits, PixelSpec, decode_image
from training.folders import is_junk, posix


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture, still encoded."""

    label: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Decoded pictures: pixels uint8 [N, 3, S, S], labels int64 [N] into `classes`."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "ImageSet":
        """The pictures at `rows` (int64 [M]); the classes stay."""
        return ImageSet(self.pixels[rows], self.labels[rows], self.classes)

    def only(self, first: int, last: int) -> "ImageSet":
        """The pictures of classes first…last−1; their labels start from 0."""
        rows = ((self.labels >= first) & (self.labels < last)).nonzero().squeeze(1)
        return ImageSet(self.pixels[rows], self.labels[rows] - first, self.classes[first:last])


def read_samples(path: Path) -> Iterator[Sample]:
    """The files of a folder or a zip with a folder per class, in sorted order."""
    if path.is_dir():
        for file in sorted(path.glob("*/*")):
            if file.is_file() and not is_junk(file.relative_to(path)):
                yield Sample(normal_name(file.parent.name), file.name, file.read_bytes())
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadDataset(f"{path} is neither a folder nor a zip file") from error
    with archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/") and "/" in name and not is_junk(posix(name)):
                label, file_name = name.split("/")[-2:]
                yield Sample(normal_name(label), file_name, archive.read(name))


def image_set(
    samples: Iterable[Sample], spec: PixelSpec, limits: ImageLimits = ImageLimits()
) -> ImageSet:
    """Decodes samples; classes are sorted by name, as the field's protocols do.

    Raises:
        BadDataset: a picture cannot be read, or there are no pictures.
    """
    pixels, labels = [], []
    for sample in samples:
        try:
            pixels.append(decode_image(sample.data, spec, limits))
        except BadImage as error:
            raise BadDataset(f"{sample.label}/{sample.name}: {error}") from error
        labels.append(sample.label)
    if not pixels:
        raise BadDataset("there are no images")
    classes = tuple(sorted(set(labels)))
    index = {name: i for i, name in enumerate(classes)}
    return ImageSet(
        torch.from_numpy(np.stack(pixels)),
        torch.tensor([index[label] for label in labels]),
        classes,
    )


def few_shot(labels: Tensor, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws up to `shots` pictures of each class: (drawn rows, the other rows), both int64."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(order)
    for label in labels.unique():
        rows = order[labels[order] == label]
        rank[rows] = torch.arange(len(rows))
    return (rank < shots).nonzero().squeeze(1), (rank >= shots).nonzero().squeeze(1)


def check_label_counts(labels: dict[str, int], min_images: int) -> None:
    """Raises BadDataset unless there are two classes with at least `min_images` pictures each."""
    if len(labels) < 2:
        raise BadDataset(f"a fit needs at least 2 classes, the data set has {len(labels)}")
    few = [f"{label} ({count})" for label, count in labels.items() if count < min_images]
    if few:
        raise BadDataset(f"fewer than {min_images} images in {', '.join(few)}")
