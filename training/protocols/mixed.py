"""Mixed lists: photos of classes with and without photos, judged among all names at once.

    python -m training.protocols.mixed --data DIR                      chooses, on other sets
    python -m training.protocols.mixed --data DIR --sets caltech101    reports

The numbers that weigh a name without photos against names with photos (`adapters.evidence`: ρ, the
default offset, and from how many photos per class on a fit chooses its own) are chosen here, on the
domains of PACS and on tiny_imagenet. Features are the frozen CLIP's, so nothing is trained. Half of
the classes, drawn by the seed, have 1, 2, 4, 8 or 16 photos. 1, 3, 5 or 50 names of the other half
join their names. A figure is the harmonic mean of two accuracies: that of photos of classes with
photos, and that of photos of the joined names. Of tiny_imagenet it takes every second class, and 26
photos of each that the bundled CLIP's pretraining has not seen (`training.pretrain.views`).
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, product
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from adapters.classify import TEMPLATE
from adapters.clip import FrozenCLIP, load_clip
from adapters.evidence import (
    OFFSET,
    RHO,
    SHOTS_TO_CHOOSE,
    Evidence,
    best_offset,
    by_name,
    fit_evidence,
    judge,
)
from adapters.malloc import keep_freed_memory
from training.data import Sample, few_shot, image_set, read_samples
from training.fit import class_features, image_features
from training.search import wordnet_names

SHOTS, SEEDS, NAMES = (1, 2, 4, 8, 16), (1, 2, 3), (1, 3, 5, 50)
PACS = ("pacs_photo", "pacs_art_painting", "pacs_cartoon", "pacs_sketch")
CHOSEN_ON = (*PACS, "tiny_imagenet")
RHOS = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
FROM = (2, 3, 5)  # photos per class from which on a fit chooses its own offset
GRID = torch.arange(-20, 21, dtype=torch.float64) / 20  # offsets that are judged
_UNSEEN = (slice(0, 10), slice(70, 86))  # photos of each class of tiny_imagenet
_GROUPS = 5  # of names that join, at most


@dataclass(frozen=True, slots=True)
class Frozen:
    """A data set's frozen features."""

    name: str
    images: Tensor  # float64 [N, e]
    labels: Tensor  # int64 [N]
    text: Tensor  # float64 [C, e]
    logit_scale: float


@dataclass(frozen=True, slots=True)
class Cell:
    """What one draw gives with one number of joined names and one ρ."""

    data: str
    shots: int
    names: int
    rho: float
    best: float | None  # the offset that the photos themselves choose
    harmonic: Tensor  # float64, a figure for each offset of GRID

    def figure(self, offset: float) -> float:
        """The harmonic mean at the grid's offset next to this one."""
        return float(self.harmonic[int((GRID - offset).abs().argmin())])

    def chosen(self, default: float, first: int) -> float:
        """The figure at a fit's offset: its own from `first` photos per class on."""
        own = self.best if self.shots >= first else None
        return self.figure(default if own is None else own)


def freeze(clip: FrozenCLIP, data: Path, name: str) -> Frozen:
    """Reads a data set and runs it through the frozen CLIP."""
    samples: Iterator[Sample] = read_samples(data / f"{name}.zip")
    if name == "tiny_imagenet":
        samples = _unseen(samples, data)
    images, labels, classes = list[Tensor](), list[int](), list[str]()
    for label, of_class in groupby(samples, lambda sample: sample.label):  # a class in memory
        pixels = image_set(of_class, clip.spec).pixels
        images.append(image_features(clip, None, pixels).double())
        labels += [len(classes)] * len(pixels)
        classes.append(label)
    text = class_features(clip, None, classes, TEMPLATE).double()
    return Frozen(name, torch.cat(images), torch.tensor(labels), text, clip.logit_scale)


def _unseen(samples: Iterator[Sample], data: Path) -> Iterator[Sample]:
    """tiny_imagenet's photos that pretraining has not seen, of every second class, by name."""
    names = dict(wordnet_names(data))
    by_class = groupby(samples, lambda sample: sample.label)
    for wnid, of_class in islice(by_class, None, None, 2):
        photos = list(of_class)
        for part in _UNSEEN:
            yield from (replace(photo, label=names[wnid]) for photo in photos[part])


def cells(data: Frozen, shots: int, seed: int, rhos: Sequence[float]) -> Iterator[Cell]:
    """One draw of classes and photos, with each number of joined names and each ρ."""
    order = torch.randperm(len(data.text), generator=torch.Generator().manual_seed(seed))
    half = (len(order) + 1) // 2
    base, novel = order[:half].sort().values, order[half:]
    place = torch.full((len(order),), -1)
    place[base] = torch.arange(half)
    fitted, rest = few_shot(data.labels, shots, seed)
    own = place[data.labels]
    train, test, others = fitted[own[fitted] >= 0], rest[own[rest] >= 0], rest[own[rest] < 0]
    x, y, w, s = data.images[train], own[train], data.text[base], data.logit_scale
    head = _double(fit_evidence(x, y, w, s))
    known = judge(head, data.images[test]).max(1)
    right = known.indices == own[test]
    against = judge(head, data.images[others]).max(1).values
    for rho in rhos:
        best = best_offset(x, y, w, s, seed, rho)
        for count in (count for count in NAMES if count <= len(novel)):
            groups = [group for group in novel.split(count) if len(group) == count][:_GROUPS]
            shares = torch.zeros(2, len(GRID), dtype=torch.float64)
            for group in groups:
                of_group = torch.isin(data.labels[others], group)
                joined = by_name(head, data.images[test], data.text[group], rho).amax(1)
                shares[0] += _share(right, known.values[:, None] >= joined[:, None] + GRID)
                images = data.images[others[of_group]]
                found = by_name(head, images, data.text[group], rho).max(1)
                true = group[found.indices] == data.labels[others[of_group]]
                wins = found.values[:, None] + GRID > against[of_group][:, None]
                shares[1] += _share(true, wins)
            shares /= len(groups)
            harmonic = 2 * shares[0] * shares[1] / (shares.sum(0) + 1e-12)
            yield Cell(data.name, shots, count, rho, best, harmonic)


def _share(right: Tensor, wins: Tensor) -> Tensor:
    """Photos that are named right and whose kind of name wins: [B], [B, offsets] → [offsets]."""
    return (right[:, None] & wins).double().mean(0)


def _double(head: Evidence) -> Evidence:
    parts = {name: getattr(head, name).double() for name in ("photos", "coefficients", "text")}
    return replace(head, **parts)


def mean_figure(found: Sequence[Cell], default: float, first: int) -> float:
    """The mean over cells; PACS's domains count as one data set."""
    by_cell: dict[tuple[str, int, int], list[float]] = {}
    for cell in found:
        key = ("pacs" if cell.data in PACS else cell.data, cell.shots, cell.names)
        by_cell.setdefault(key, []).append(cell.chosen(default, first))
    by_set: dict[str, list[float]] = {}
    for (name, _, _), figures in by_cell.items():
        by_set.setdefault(name, []).append(fmean(figures))
    return fmean(map(fmean, by_set.values()))


def choose(found: Sequence[Cell]) -> tuple[float, float, int]:
    """The (ρ, default offset, photos to choose from) with the largest mean figure."""
    scored: dict[tuple[float, float, int], float] = {}
    for rho, first in product(sorted({cell.rho for cell in found}), FROM):
        some = [cell for cell in found if cell.rho == rho]
        of_rho = {
            (rho, default, first): mean_figure(some, default, first) for default in GRID.tolist()
        }
        best = max(of_rho, key=of_rho.__getitem__)
        figure = f"{100 * of_rho[best]:.2f} at {best[1]:.2f}"
        print(f"ρ {rho:4}, chosen from {first} photos per class on: {figure}")
        scored |= of_rho
    return max(scored, key=scored.__getitem__)


def show(found: Sequence[Cell], rho: float, default: float, first: int) -> None:
    """A table by data set and joined names; in brackets, at the best offset of all draws."""
    for name, count in sorted({(cell.data, cell.names) for cell in found}):
        row = []
        for shots in SHOTS:
            some = [
                cell
                for cell in found
                if (cell.data, cell.names, cell.shots, cell.rho) == (name, count, shots, rho)
            ]
            figure = fmean(cell.chosen(default, first) for cell in some)
            hindsight = float(torch.stack([cell.harmonic for cell in some]).mean(0).max())
            row.append(f"{100 * figure:5.1f} ({100 * hindsight:4.1f})")
        print(f"{name:18} {count:3} names  " + "  ".join(row))


def main() -> None:
    """Chooses where the sets are those to choose on; else reports at the constants."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=CHOSEN_ON)
    arguments = parser.parse_args()
    keep_freed_memory()
    clip, chooses = load_clip(), tuple(arguments.sets) == CHOSEN_ON
    found: list[Cell] = []
    for name in arguments.sets:
        data = freeze(clip, arguments.data, name)
        for shots, seed in product(SHOTS, SEEDS):
            found += cells(data, shots, seed, RHOS if chooses else (RHO,))
    setting = choose(found) if chooses else (RHO, OFFSET, SHOTS_TO_CHOOSE)
    print("ρ {:g}, default offset {:g}, chosen from {:g} photos per class on".format(*setting))
    print("harmonic mean in %, by photos per class:", *SHOTS)
    show(found, *setting)


if __name__ == "__main__":
    main()
