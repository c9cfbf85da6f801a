"""What the paper leaves open, searched: `python -m training.search --data DIR`.

Base-to-novel, 16 photos a class, one setting changed at a time from the defaults, on sets that the
README's main figure (Caltech 101) has nothing of: 40 classes of tiny_imagenet, tested on the ten
photos of each that pretraining held back, and two domains of PACS, whose own figures are therefore
not wholly blind. The frozen CLIP knows the first well already, the last hardly at all.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from adapters.classify import TEMPLATE
from adapters.clip import FrozenCLIP, load_clip
from adapters.config import LossWeights
from adapters.memory import keep_freed_memory
from training.baselines import Pool, fit_adapters, make_pool
from training.data import Sample, few_shot, image_set, read_samples
from training.fit import FitSettings, class_features, default_settings
from training.protocols import harmonic_mean

CLASSES, SHOTS, HELD_BACK = 40, 16, 10
SEEDS = (1, 2)


def candidates(start: FitSettings) -> Iterator[tuple[str, FitSettings]]:
    """The defaults, and each with one thing changed."""
    yield "the defaults", start
    for epochs in (5, 20):
        yield f"epochs {epochs}", replace(start, epochs=epochs)
    for rate in (3e-4, 3e-3):
        yield f"learning rate {rate:g}", replace(start, learning_rate=rate)
    yield "no λ at all (MMA)", replace(start, losses=LossWeights(0, 0, 0, 0))
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


@dataclass(frozen=True, slots=True)
class Trial:
    """A data set to search on: what may be drawn from, and what is tested where it is apart."""

    name: str
    train: Pool
    test: Pool | None  # None: what is not drawn
    base: int  # so many of its classes are fitted

    def draw(self, seed: int) -> tuple[Pool, Pool, Pool]:
        """(training pictures, test pictures of base classes, of novel ones)."""
        drawn, others = few_shot(self.train.labels, SHOTS, seed)
        test = self.test or self.train.take(others)
        train = self.train.take(drawn).only(0, self.base)
        return train, test.only(0, self.base), test.only(self.base, len(test.classes))


def trials(clip: FrozenCLIP, data: Path) -> Iterator[Trial]:
    """tiny_imagenet, then PACS."""
    train, test = tiny_imagenet(clip, data)
    yield Trial("tiny_imagenet", train, test, CLASSES // 2)
    for domain in ("art_painting", "sketch"):
        pool = make_pool(clip, image_set(read_samples(data / f"pacs_{domain}.zip"), clip.spec))
        yield Trial(domain, pool, None, 4)


def tiny_imagenet(clip: FrozenCLIP, data: Path) -> tuple[Pool, Pool]:
    """(training pictures, test pictures), the same classes in both."""
    names = dict(_names(data))
    train, test = list[Sample](), list[Sample]()
    by_class = groupby(read_samples(data / "tiny_imagenet.zip"), lambda sample: sample.label)
    for i, (wnid, samples) in enumerate(by_class):
        if i % (200 // CLASSES) == 0:
            renamed = [replace(sample, label=names[wnid]) for sample in samples]
            test += renamed[:HELD_BACK]
            train += renamed[HELD_BACK : HELD_BACK + 2 * SHOTS]
    return make_pool(clip, image_set(train, clip.spec)), make_pool(clip, image_set(test, clip.spec))


def _names(data: Path) -> Iterator[tuple[str, str]]:
    """(WordNet id, name), as imagenet_sample.zip's files spell them: wnid_name.jpg."""
    with zipfile.ZipFile(data / "imagenet_sample.zip") as archive:
        for file in archive.namelist():
            wnid, name = Path(file).stem.split("_", 1)
            yield wnid, name.lower()


def score(clip: FrozenCLIP, settings: FitSettings | None, trial: Trial) -> dict[str, float]:
    """Mean base, novel and harmonic mean over the seeds; None: the frozen CLIP's."""
    shares = torch.zeros(len(SEEDS), 2)
    for row, seed in zip(shares, SEEDS, strict=True):
        train, *tests = trial.draw(seed)
        logits = _fitted(clip, settings, train, seed)
        for i, test in enumerate(tests):
            row[i] = (logits(test).argmax(1).cpu() == test.labels).float().mean()
    base, novel = shares.mean(0).tolist()
    return {"base": base, "novel": novel, "hm": harmonic_mean(base, novel)}


def _fitted(
    clip: FrozenCLIP, settings: FitSettings | None, train: Pool, seed: int
) -> Callable[[Pool], Tensor]:
    if settings is None:
        return lambda test: test.features @ class_features(clip, None, test.classes, TEMPLATE).T
    fitted = fit_adapters(clip, train, replace(settings, seed=seed))
    return lambda test: fitted.cosines(test, test.classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", help="candidates whose name holds this")
    arguments = parser.parse_args()
    keep_freed_memory()
    clip = load_clip()
    sets = list(trials(clip, arguments.data))
    settings = [("the frozen CLIP", None), *candidates(default_settings(clip))]
    print(f"{'base / novel / harmonic mean, %':32}", *(f"{s.name:>18}" for s in sets))
    for name, candidate in settings:
        if arguments.only and arguments.only not in name:
            continue
        found = [score(clip, candidate, trial) for trial in sets]
        cells = ["/".join(f"{100 * value:5.1f}" for value in each.values()) for each in found]
        print(f"{name:32}", *(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
