"""Evaluates a fit on held-out pictures, then fits on all of them.

Pictures are few, so the evaluation uses cross-validation: every picture is judged once, by an
adapter and a head that were fitted without it. The published version is fitted on all pictures. The
evaluated scores are the head's, as in serving.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.evidence import OFFSET, SCALE, Evidence, choose_offset, fit_evidence, judge
from adapters.rmadapter import CLIPAdapters
from training.data import ImageSet
from training.fit import (
    Features,
    FitSettings,
    OnProgress,
    Prepared,
    Progress,
    adapted_image_features,
    features,
    fit_rows,
    prepare,
    steps_of,
)
from training.report import Mistake, Report, fit_logit_scale, mistakes, report

FOLDS = 4
ENOUGH = 200  # with this many held-out pictures (±7 points at worst), one fold is enough


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out figures of the fit and of the frozen CLIP on the same pictures.

    Both are None if every class has only one picture.
    """

    adapted: Report | None  # of the head on the adapter's features; the head has its own scale
    zero_shot: Report | None
    logit_scale: float  # 1/τ when no requested name has photos
    mistakes: tuple[Mistake, ...] = ()  # of the fit, the highest score first
    offset_chosen: bool = False  # False: too few photos to choose one, so it is the default

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a report shows them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FittedVersion:
    """The result of a fit that is published."""

    adapters: CLIPAdapters
    head: Evidence


def evaluate_and_fit(
    clip: FrozenCLIP,
    data: ImageSet,
    settings: FitSettings,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[FittedVersion, Evaluation]:
    """The adapter and its head, fitted on all of `data`, and their evaluation.

    Raises what `fit` raises.
    """
    prepared = prepare(clip, data, settings)
    folds = held_out_folds(data.labels, settings.seed)
    everything = torch.arange(len(data))
    fits = [_others(everything, fold) for fold in folds] + [everything]
    total = _TotalProgress([len(rows) for rows in fits], settings, on_progress)
    judged = []
    for i, (rows, fold) in enumerate(zip(fits, folds, strict=False)):
        adapters = fit_rows(clip, prepared, rows, total.part(i))
        judged.append(_judged(clip, prepared, adapters, rows, fold))
    adapters = fit_rows(clip, prepared, everything, total.part(len(folds)))
    offset, chosen = chosen_offset(clip, prepared)
    evaluation = _evaluate(clip, prepared, data, folds, judged)
    scale = evaluation.adapted.logit_scale if evaluation.adapted else SCALE
    head = replace(
        head_of(clip, prepared, features(clip, prepared, adapters, everything), everything),
        offset=offset,
        scale=scale,
    )
    return FittedVersion(adapters, head), replace(evaluation, offset_chosen=chosen)


def head_of(clip: FrozenCLIP, prepared: Prepared, seen: Features, rows: Tensor) -> Evidence:
    """The head on the features of the pictures at `rows`, int64 [M]."""
    labels = prepared.labels.cpu()[rows.cpu()]
    return fit_evidence(seen.images, labels, seen.text, clip.logit_scale)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The results of one fold's pictures, from a fit on the other folds."""

    values: Tensor  # float32 [M, C], the head's
    cosines: Tensor  # float32 [M, C], from the names alone


def _judged(
    clip: FrozenCLIP, prepared: Prepared, adapters: CLIPAdapters, rows: Tensor, fold: Tensor
) -> _Judged:
    seen = features(clip, prepared, adapters, rows)
    head = head_of(clip, prepared, seen, rows).float()
    unseen = Features(adapted_image_features(clip, prepared, adapters, fold), seen.text)
    return _Judged(judge(head, unseen.images.cpu()), unseen.cosines().cpu())


def chosen_offset(clip: FrozenCLIP, prepared: Prepared) -> tuple[float, bool]:
    """The offset of names without photos, and whether it was chosen from the photos.

    It is chosen on the frozen CLIP's features, so that no fit has seen the left-out classes.
    """
    text, labels = prepared.text.features, prepared.labels
    seed = prepared.settings.seed
    offset = choose_offset(prepared.images.features, labels, text, clip.logit_scale, seed)
    return (OFFSET, False) if offset is None else (offset, True)


def held_out_folds(labels: Tensor, seed: int) -> list[Tensor]:
    """The held-out rows of each fold, int64 [M]; each class keeps at least one training picture.

    There is one fold if it holds `ENOUGH` pictures; otherwise all folds, so that every picture is
    judged.
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
    judged: list[_Judged],
) -> Evaluation:
    if not folds:
        return Evaluation(None, None, clip.logit_scale)
    rows = torch.cat(folds)
    labels = data.labels[rows]
    found = torch.cat([fold.values for fold in judged])
    named = torch.cat([fold.cosines for fold in judged])
    adapted = report(found, labels, data.classes, SCALE)
    wrong = mistakes(found, labels, rows, data.classes, adapted.logit_scale)
    frozen = features(clip, prepared, None, rows).cosines()
    zero_shot = report(frozen, labels, data.classes, clip.logit_scale)
    by_name = fit_logit_scale(named, labels, clip.logit_scale)
    return Evaluation(adapted, zero_shot, by_name, wrong)


class _TotalProgress:
    """Reports the progress of several fits as one."""

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
                    part=index + 1,
                    parts=len(self._plan),
                )
            )

        return on_progress
