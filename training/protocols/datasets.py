"""Data sets as the protocols read them: a zip or a folder per class, or CoOp's layout."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset
from training.data import ImageSet, Sample, few_shot, image_set, read_samples
from training.peers.pool import Pool, make_pool


@dataclass(frozen=True, slots=True)
class Listing:
    """Pictures not yet decoded: a file or its bytes, and its class's number."""

    items: tuple[Path | bytes, ...]
    labels: Tensor  # int64 [N]
    classes: tuple[str, ...]

    def take(self, rows: Tensor) -> "Listing":
        """The pictures at `rows`, int64 [M]; the classes stay."""
        return Listing(tuple(self.items[i] for i in rows.tolist()), self.labels[rows], self.classes)

    def decode(self, clip: FrozenCLIP) -> ImageSet:
        """The pictures, preprocessed for the CLIP; raises BadDataset for a broken one."""
        data = (item if isinstance(item, bytes) else item.read_bytes() for item in self.items)
        numbered = (Sample(f"{i:08d}", str(i), bytes_) for i, bytes_ in enumerate(data))
        pixels = image_set(numbered, clip.spec).pixels
        return ImageSet(pixels, self.labels, self.classes)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set; without a test split, the pictures that are not drawn are the test pictures."""

    clip: FrozenCLIP
    train: Listing | Pool
    test: Pool | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.train.classes

    def draw(self, shots: int, seed: int) -> tuple[Pool, Pool]:
        """(`shots` training pictures per class, the test pictures); no picture is in both."""
        drawn, others = few_shot(self.train.labels, shots, seed)
        if isinstance(self.train, Listing):
            assert self.test is not None
            return make_pool(self.clip, self.train.take(drawn).decode(self.clip)), self.test
        test = self.test if self.test is not None else self.train.take(others)
        if not len(test):
            raise BadDataset(f"with {shots} shots no picture is left to test on")
        return self.train.take(drawn), test

    def everything(self) -> Pool:
        """The test pictures of a target data set: its test split, or all pictures."""
        if self.test is not None:
            return self.test
        assert isinstance(self.train, Pool)
        return self.train


def read_dataset(clip: FrozenCLIP, path: Path) -> DataSet:
    """Reads a zip or folder with a folder per class, or a data set in CoOp's layout.

    Raises:
        BadDataset: the path is neither, or a picture is broken.
    """
    if path.is_dir() and (
        any(path.glob("split_zhou_*.json")) or (path / "classnames.txt").exists()
    ):
        train, test = read_coop(path)
        return DataSet(clip, train, make_pool(clip, test.decode(clip)))
    return DataSet(clip, make_pool(clip, image_set(read_samples(path), clip.spec)), None)


def read_coop(folder: Path) -> tuple[Listing, Listing]:
    """CoOp's layout: (training, test) pictures, classes in the order of their numbers.

    `split_zhou_*.json` holds {"train": [[path, label, class name], …], "val": …, "test": …}; the
    paths start at one of the folder's subfolders. ImageNet has no such file, but `classnames.txt`
    and `images/train`, `images/val`.

    Raises:
        BadDataset: no split file, or a picture it names is not there.
    """
    files = sorted(folder.glob("split_zhou_*.json"))
    if not files and (folder / "classnames.txt").exists():
        return _imagenet(folder, "train"), _imagenet(folder, "val")
    if not files:
        raise BadDataset(f"{folder} has no split_zhou_*.json")
    split = json.loads(files[0].read_text())
    names = {int(label): str(name) for part in split.values() for _, label, name in part}
    if sorted(names) != list(range(len(names))):
        raise BadDataset(f"{files[0].name}: its labels are not 0…{len(names) - 1}")
    classes = tuple(names[i] for i in range(len(names)))
    root = _image_root(folder, str(split["train"][0][0]))
    return _split(root, split["train"], classes), _split(root, split["test"], classes)


def _image_root(folder: Path, first: str) -> Path:
    for root in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if (root / first).exists():
            return root
    raise BadDataset(f"{folder}: {first}, named by its split file, is in none of its folders")


def _split(root: Path, rows: Iterable[tuple[str, int, str]], classes: tuple[str, ...]) -> Listing:
    rows = list(rows)
    labels = torch.tensor([int(label) for _, label, _ in rows])
    return Listing(tuple(root / str(path) for path, _, _ in rows), labels, classes)


def _imagenet(folder: Path, part: str) -> Listing:
    lines = (folder / "classnames.txt").read_text().splitlines()
    named = [line.strip().split(" ", 1) for line in lines if line.strip()]
    files = [sorted((folder / "images" / part / number).iterdir()) for number, _ in named]
    labels = torch.repeat_interleave(torch.tensor([len(group) for group in files]))
    return Listing(
        tuple(file for group in files for file in group), labels, tuple(n for _, n in named)
    )
