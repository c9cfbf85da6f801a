"""Judges a fit on pictures that it did not see, then fits on all of them.

Pictures are few, so they are held back by folds: every picture is judged once, by an adapter that
was fitted without it. What is published is fitted on all.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.rmadapter import CLIPAdapters
from training.data import ImageSet
from training.fit import (
    FitSettings,
    OnProgress,
    Prepared,
    Progress,
    cosines,
    fit_rows,
    prepare,
    steps_of,
)
from training.report import Mistake, Report, mistakes, report

FOLDS = 4
ENOUGH = 200  # pictures held back that say enough: ±7 points at worst; then one fold does


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out figures of the adapter and of the frozen CLIP on the same pictures.

    Both are None where every class has one picture alone.
    """

    adapted: Report | None
    zero_shot: Report | None
    logit_scale: float  # 1/τ for serving
    mistakes: tuple[Mistake, ...] = ()  # of the adapter, the surest first

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a report shows them."""
        return asdict(self)


def evaluate_and_fit(
    clip: FrozenCLIP,
    data: ImageSet,
    settings: FitSettings,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[CLIPAdapters, Evaluation]:
    """The adapter, fitted on all of `data`, and what it is worth.

    Raises what `fit` raises.
    """
    prepared = prepare(clip, data, settings)
    folds = held_out_folds(data.labels, settings.seed)
    everything = torch.arange(len(data))
    fits = [_others(everything, fold) for fold in folds] + [everything]
    total = _TotalProgress([len(rows) for rows in fits], settings, on_progress)
    judged = [
        cosines(clip, prepared, fit_rows(clip, prepared, rows, total.part(i)), fold)
        for i, (rows, fold) in enumerate(zip(fits, folds, strict=False))
    ]
    fitted = fit_rows(clip, prepared, everything, total.part(len(folds)))
    return fitted, _evaluate(clip, prepared, data, folds, judged)


def held_out_folds(labels: Tensor, seed: int) -> list[Tensor]:
    """Rows held back, int64 [M] each: by class, at least one picture of it always left to fit.

    One fold where it holds `ENOUGH` pictures; else all of them, so that each picture is judged.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fold_of = torch.full_like(labels, -1)
    for label in labels.unique():
        rows = order[labels[order] == label]
        if len(rows) > 1:
            fold_of[rows] = torch.arange(len(rows)) % FOLDS
    folds = [(fold_of == fold).nonzero().squeeze(1) for fold in range(FOLDS)]
    folds = [fold for fold in folds if len(fold)]
    return folds[:1] if folds and len(folds[0]) >= ENOUGH else folds


def _others(everything: Tensor, fold: Tensor) -> Tensor:
    return everything[~torch.isin(everything, fold)]


def _evaluate(
    clip: FrozenCLIP,
    prepared: Prepared,
    data: ImageSet,
    folds: list[Tensor],
    judged: list[Tensor],
) -> Evaluation:
    if not folds:
        return Evaluation(None, None, clip.logit_scale)
    rows = torch.cat(folds)
    labels = data.labels[rows]
    found = torch.cat(judged).cpu()
    adapted = report(found, labels, data.classes, clip.logit_scale)
    wrong = mistakes(found, labels, rows, data.classes, adapted.logit_scale)
    frozen = cosines(clip, prepared, None, rows)
    zero_shot = report(frozen, labels, data.classes, clip.logit_scale)
    return Evaluation(adapted, zero_shot, adapted.logit_scale, wrong)


class _TotalProgress:
    """Shows several fits as one."""

    def __init__(self, sizes: list[int], settings: FitSettings, report_to: OnProgress) -> None:
        self._plan = [steps_of(size, settings) for size in sizes]
        self._report_to = report_to

    def part(self, index: int) -> OnProgress:
        epochs, steps = (sum(column) for column in zip(*self._plan, strict=True))
        epochs_before = sum(e for e, _ in self._plan[:index])
        steps_before = sum(s for _, s in self._plan[:index])

        def on_progress(progress: Progress) -> None:
            self._report_to(
                Progress(
                    epochs_before + progress.epoch,
                    epochs,
                    steps_before + progress.step,
                    steps,
                    progress.loss,
                )
            )

        return on_progress
