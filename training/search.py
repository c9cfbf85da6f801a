"""Searches the settings that the paper leaves open: `python -m training.search --data DIR`.

The protocol is base-to-novel with 16 photos per class, and one setting at a time differs from the
defaults. The data sets share nothing with the README's main figure (Caltech 101): 40 classes of
tiny_imagenet, tested on the ten photos of each that pretraining held out, and two domains of PACS.
The figures on these two domains are therefore not fully blind. The frozen CLIP already knows the
first set well, and the last hardly at all. MMA's learning rate is searched on the same sets.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch

from adapters.clip import FrozenCLIP, load_clip
from adapters.config import LossWeights
from adapters.malloc import keep_freed_memory
from training.data import Sample, few_shot, image_set, read_samples
from training.fit import FitSettings
from training.peers import method_settings, zero_shot
from training.peers.mma import fit_mma
from training.peers.pool import Fitted, Pool, make_pool
from training.peers.rmadapter import fit_adapters
from training.protocols import Plan, harmonic_mean

CLASSES, SHOTS, HELD_BACK = 40, 16, 10
SEEDS = (1, 2)
DOMAINS = ("art_painting", "sketch")
MMA_RATES = (1.5e-3, 5e-3, 1.5e-2, 5e-2)  # the first is its published one


def candidates(start: FitSettings) -> Iterator[tuple[str, FitSettings]]:
    """The defaults, then the defaults with one setting changed at a time."""
    yield "the defaults", start
    for epochs in (5, 20):
        yield f"epochs {epochs}", replace(start, epochs=epochs)
    for rate in (3e-4, 3e-3):
        yield f"learning rate {rate:g}", replace(start, learning_rate=rate)
    yield "no λ at all", replace(start, losses=LossWeights(0, 0, 0, 0))
    for weight in (0.0, 0.5):
        losses = replace(start.losses, image_consistency=weight, text_consistency=weight)
        yield f"λ3 = λ4 = {weight:g}", replace(start, losses=losses)
    for weight in (0.0, 1.0):
        losses = replace(start.losses, image_reconstruction=weight, text_reconstruction=weight)
        yield f"λ1 = λ2 = {weight:g}", replace(start, losses=losses)
    later = replace(start.adapter, image_first=start.adapter.image_first + 2)
    yield "two image blocks fewer", replace(start, adapter=later)
    yield "α = 0.1", replace(start, adapter=replace(start.adapter, alpha=0.1))
    yield "up-projection from 0.02", replace(start, adapter=replace(start.adapter, up_std=0.02))
    yield "L_rec with padding", replace(start, count_padding=True)
    yield "rank 8", replace(start, adapter=replace(start.adapter, rank=8))


def plan(clip: FrozenCLIP) -> Plan:
    """The frozen CLIP, RMAdapter's candidates, and MMA at its published rate and above it."""
    settings = method_settings(clip)

    def ours(changed: FitSettings) -> Callable[[Pool, int], Fitted]:
        return lambda train, seed: fit_adapters(clip, train, replace(changed, seed=seed))

    def mma(rate: float) -> Callable[[Pool, int], Fitted]:
        changed = replace(settings, mma=replace(settings.mma, learning_rate=rate))
        return lambda train, seed: fit_mma(clip, train, changed.fit.template, changed.mma, seed)

    frozen: Plan = {"the frozen CLIP": lambda train, seed: zero_shot(clip, settings)}
    named = {name: ours(changed) for name, changed in candidates(settings.fit)}
    return {**frozen, **named, **{f"MMA at {rate:g}": mma(rate) for rate in MMA_RATES}}


@dataclass(frozen=True, slots=True)
class Trial:
    """A data set to search on: the pictures to draw from, and its test split, if there is one."""

    name: str
    train: Pool
    test: Pool | None  # None: the pictures that are not drawn
    base: int  # the number of fitted classes

    def draw(self, seed: int) -> tuple[Pool, Pool, Pool]:
        """(training pictures, test pictures of base classes, of novel ones)."""
        drawn, others = few_shot(self.train.labels, SHOTS, seed)
        test = self.test or self.train.take(others)
        train = self.train.take(drawn).only(0, self.base)
        return train, test.only(0, self.base), test.only(self.base, len(test.classes))


def trials(clip: FrozenCLIP, data: Path, names: Sequence[str]) -> Iterator[Trial]:
    """The trials in `names`, in a fixed order: tiny_imagenet, then domains of PACS."""
    if "tiny_imagenet" in names:
        train, test = tiny_imagenet(clip, data)
        yield Trial("tiny_imagenet", train, test, CLASSES // 2)
    for domain in (name for name in DOMAINS if name in names):
        pool = make_pool(clip, image_set(read_samples(data / f"pacs_{domain}.zip"), clip.spec))
        yield Trial(domain, pool, None, 4)


def tiny_imagenet(clip: FrozenCLIP, data: Path) -> tuple[Pool, Pool]:
    """(training pictures, test pictures), the same classes in both."""
    names = dict(wordnet_names(data))
    train, test = list[Sample](), list[Sample]()
    by_class = groupby(read_samples(data / "tiny_imagenet.zip"), lambda sample: sample.label)
    for i, (wnid, samples) in enumerate(by_class):
        if i % (200 // CLASSES) == 0:
            renamed = [replace(sample, label=names[wnid]) for sample in samples]
            test += renamed[:HELD_BACK]
            train += renamed[HELD_BACK : HELD_BACK + 2 * SHOTS]
    return make_pool(clip, image_set(train, clip.spec)), make_pool(clip, image_set(test, clip.spec))


def wordnet_names(data: Path) -> Iterator[tuple[str, str]]:
    """(WordNet id, name), as imagenet_sample.zip's files spell them: wnid_name.jpg."""
    with zipfile.ZipFile(data / "imagenet_sample.zip") as archive:
        for file in archive.namelist():
            wnid, name = Path(file).stem.split("_", 1)
            yield wnid, name.lower()


def score(fit: Callable[[Pool, int], Fitted], trial: Trial) -> dict[str, float]:
    """Mean base, novel and harmonic mean over the seeds."""
    shares = torch.zeros(len(SEEDS), 2)
    for row, seed in zip(shares, SEEDS, strict=True):
        train, *tests = trial.draw(seed)
        fitted = fit(train, seed)
        for i, test in enumerate(tests):
            answers = fitted.cosines(test, test.classes).argmax(1).cpu()
            row[i] = (answers == test.labels).float().mean()
    base, novel = shares.mean(0).tolist()
    return {"base": base, "novel": novel, "hm": harmonic_mean(base, novel)}


def main() -> None:
    """Measures the candidates and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="candidates whose name contains this")
    every = ("tiny_imagenet", *DOMAINS)
    parser.add_argument("--sets", nargs="+", choices=every, default=every, help="what to search on")
    arguments = parser.parse_args()
    keep_freed_memory()
    clip = load_clip()
    sets = list(trials(clip, arguments.data, arguments.sets))
    print(f"{'base / novel / harmonic mean, %':32}", *(f"{s.name:>18}" for s in sets))
    for name, fit in plan(clip).items():
        if arguments.only in name:
            found = [score(fit, trial) for trial in sets]
            cells = ["/".join(f"{100 * value:5.1f}" for value in each.values()) for each in found]
            print(f"{name:32}", *(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
