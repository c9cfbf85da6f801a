"""Three ways to train an adapter under a small α: `python -m tests.benchmarks.gradient_scaling`.

--sets, --variants and --seeds take less than all of it.

MMA's public code multiplies the gradient behind each adapter by 1/α and before it by α, so that its
SGD at 0.0015 under α = 0.001 acts like one at 1.5; neither paper says so. Compared, on photos and
paintings of PACS (16 a class, the rest held out, 7 names; base and novel are 4 and 3 names):

zero-shot       the frozen CLIP
adamw           α = 1, up-projection from zero, AdamW 0.001: no scaling (the default here)
sgd-plain       α = 0.001, kaiming init, SGD 0.0015, no scaling
sgd-scaled      the same with the public code's scaling
sgd-scaled-1.5  the same with the rate a thousand times as high
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from adapters.clip import load_clip
from adapters.malloc import keep_freed_memory
from adapters.rmadapter import CLIPAdapters, RMAdapter
from tests.support.paths import SHARED
from training import fit as fitting
from training.data import ImageSet, few_shot, image_set, read_samples
from training.peers.mma import Scaled

DATA = SHARED
BASE = 4
VARIANTS = ("zero-shot", "adamw", "sgd-plain", "sgd-scaled", "sgd-scaled-1.5")


def scale_gradients(adapters: CLIPAdapters) -> None:
    """As the public code does: lower layers get their true gradient, an adapter 1/α times its."""
    alpha = adapters.config.alpha
    for tower in (adapters.image, adapters.text):
        for block in tower.blocks:
            block.forward = _scaled(block, alpha)


def _scaled(block: RMAdapter, alpha: float) -> Callable[[Tensor], Tensor]:
    plain = block.forward
    return lambda x: Scaled.apply(plain(Scaled.apply(x, alpha)), 1 / alpha)


def kaiming_up(adapters: CLIPAdapters) -> None:
    for tower in (adapters.image, adapters.text):
        for block in tower.blocks:
            nn.init.kaiming_normal_(block.up.weight, mode="fan_out")


def sgd(parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


def run(clip, data: ImageSet, variant: str, seed: int) -> tuple[float, float]:
    """Accuracy on base and novel names."""
    base, novel = data.only(0, BASE), data.only(BASE, len(data.classes))
    drawn, others = few_shot(base.labels, 16, seed)
    settings = fitting.default_settings(clip, seed=seed)
    if variant.startswith("sgd"):
        rate = 1.5 if variant.endswith("1.5") else 1.5e-3
        adapter = replace(settings.adapter, alpha=1e-3)
        settings = replace(settings, adapter=adapter, learning_rate=rate)
    fitted = variant != "zero-shot"
    adapters = fit_variant(clip, base.take(drawn), settings, variant) if fitted else None
    return tuple(accuracy(clip, adapters, part) for part in (base.take(others), novel))


def fit_variant(clip, data: ImageSet, settings, variant: str) -> CLIPAdapters:
    """`training.fit.fit`, its optimiser and new adapters exchanged."""
    if variant == "adamw":
        return fitting.fit(clip, data, settings)

    def new_adapters(*args) -> CLIPAdapters:
        adapters = CLIPAdapters(*args)
        kaiming_up(adapters)
        if variant.startswith("sgd-scaled"):
            scale_gradients(adapters)
        return adapters

    before = fitting.CLIPAdapters, torch.optim.AdamW
    fitting.CLIPAdapters, torch.optim.AdamW = new_adapters, sgd
    try:
        return fitting.fit(clip, data, settings)
    finally:
        fitting.CLIPAdapters, torch.optim.AdamW = before


def accuracy(clip, adapters: CLIPAdapters | None, data: ImageSet) -> float:
    images = fitting.image_features(clip, adapters, data.pixels)
    text = fitting.class_features(clip, adapters, data.classes, "a photo of a {}.")
    return ((images @ text.T).argmax(1) == data.labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gradient_scaling")
    parser.add_argument("--sets", nargs="+", default=["photo", "art_painting"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    options = parser.parse_args()
    keep_freed_memory()
    clip = load_clip()
    print(f"{'set':14} {'variant':15} {'base':>6} {'novel':>6} {'hm':>6}   seeds {options.seeds}")
    for name in options.sets:
        data = image_set(read_samples(DATA / f"pacs_{name}.zip"), clip.spec)
        for variant in options.variants:
            pairs = [run(clip, data, variant, seed) for seed in options.seeds]
            base, novel = (statistics.mean(column) for column in zip(*pairs, strict=True))
            hm = 2 * base * novel / (base + novel)
            print(f"{name:14} {variant:15} {base:6.1%} {novel:6.1%} {hm:6.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
