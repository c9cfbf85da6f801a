"""What the paper leaves open, searched: `python -m training.search --data DIR`.

On tiny_imagenet, which neither figure of the README reports on: 40 of its classes, base-to-novel,
16 photos a class, tested on the ten photos of each class that pretraining held back. One setting
is changed at a time, from the defaults.
"""

import argparse
import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from adapters.clip import FrozenCLIP, load_clip
from adapters.config import LossWeights
from adapters.memory import keep_freed_memory
from training.baselines import Pool, fit_adapters, make_pool
from training.data import Sample, image_set, read_samples
from training.fit import FitSettings, default_settings
from training.protocols import harmonic_mean

CLASSES, SHOTS, HELD_BACK = 40, 16, 10
SEEDS = (1,)


def candidates(start: FitSettings) -> Iterator[tuple[str, FitSettings]]:
    """The defaults, and each with one thing changed."""
    yield "the defaults", start
    for epochs in (5, 10):
        yield f"epochs {epochs}", replace(start, epochs=epochs)
    for rate in (3e-4, 3e-3):
        yield f"learning rate {rate:g}", replace(start, learning_rate=rate)
    yield "no λ at all (MMA)", replace(start, losses=LossWeights(0, 0, 0, 0))
    for weight in (0.0, 0.2):
        losses = replace(start.losses, image_consistency=weight, text_consistency=weight)
        yield f"λ3 = λ4 = {weight:g}", replace(start, losses=losses)
    for weight in (0.0, 1.0):
        losses = replace(start.losses, image_reconstruction=weight, text_reconstruction=weight)
        yield f"λ1 = λ2 = {weight:g}", replace(start, losses=losses)
    later = replace(start.adapter, image_first=start.adapter.image_first + 2)
    yield "two image blocks fewer", replace(start, adapter=later)
    yield "α = 0.1", replace(start, adapter=replace(start.adapter, alpha=0.1))
    yield "rank 8", replace(start, adapter=replace(start.adapter, rank=8))


def pools(clip: FrozenCLIP, data: Path) -> tuple[Pool, Pool]:
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


def score(clip: FrozenCLIP, settings: FitSettings, train: Pool, test: Pool) -> dict[str, Any]:
    """Mean base, novel and harmonic mean over the seeds."""
    half, base, novel = CLASSES // 2, 0.0, 0.0
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(2 * SHOTS, generator=generator)[:SHOTS]
        rows = torch.cat([order + c * 2 * SHOTS for c in range(half)])
        fitted = fit_adapters(clip, train.take(rows).only(0, half), replace(settings, seed=seed))
        for first in (0, half):
            part = test.only(first, first + half)
            right = fitted.cosines(part, part.classes).argmax(1).cpu() == part.labels
            share = right.float().mean().item() / len(SEEDS)
            base, novel = (base + share, novel) if first == 0 else (base, novel + share)
    return {"base": base, "novel": novel, "hm": harmonic_mean(base, novel)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="a JSON line for each setting")
    arguments = parser.parse_args()
    keep_freed_memory()
    clip = load_clip()
    train, test = pools(clip, arguments.data)
    for name, settings in candidates(default_settings(clip)):
        found = score(clip, settings, train, test)
        margin = 1.96 * math.sqrt(found["hm"] * (1 - found["hm"]) / len(test))
        columns = "  ".join(f"{key} {value:6.1%}" for key, value in found.items())
        print(f"{name:32} {columns}  ±{margin:.1%}", flush=True)
        if arguments.out:
            with arguments.out.open("a") as stream:
                stream.write(json.dumps({"setting": name} | found) + "\n")


if __name__ == "__main__":
    main()
