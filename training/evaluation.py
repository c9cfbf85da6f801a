"""Evaluates a version on held-out pictures, then fits it on all of them.

Pictures are few, so the evaluation uses cross-validation: every picture is judged once, by an
adapter and a head that were fitted without it. The published version is fitted on all pictures. The
evaluated scores are the head's, as in serving. An instant version, a head on the frozen CLIP's
features, is judged on the same folds, so that the two can be compared.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.evidence import OFFSET, SCALE, Evidence, choose_offset, fit_evidence, judge
from adapters.rmadapter import CLIPAdapters
from training.fit import (
    Features,
    FitSettings,
    OnProgress,
    Prepared,
    Progress,
    adapted_image_features,
    features,
    fit_rows,
    steps_of,
)
from training.report import Mistake, Report, fit_logit_scale, mistakes, report, wilson

FOLDS = 4
ENOUGH = 200  # with this many held-out pictures (±7 points at worst), one fold is enough

Kind = Literal["instant", "full"]  # a head on frozen features; an adapter and a head on its own


@dataclass(frozen=True, slots=True)
class Share:
    """An accuracy without its details."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson's
    images: int


@dataclass(frozen=True, slots=True)
class PhotoCounts:
    """How many photos a version was made of."""

    head: int
    adapter: int  # fewer, if memory did not hold all; 0 for an instant version


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out figures of the version and of the frozen CLIP on the same pictures.

    All figures are None if every class has only one picture.
    """

    adapted: Report | None  # of the version that is served; its head has its own scale
    zero_shot: Report | None
    logit_scale: float  # 1/τ when no requested name has photos
    mistakes: tuple[Mistake, ...] = ()  # of the version, the highest score first
    offset_chosen: bool = False  # False: too few photos to choose one, so it is the default
    kind: Kind = "full"
    instant: Share | None = None  # of an instant version on the same pictures
    photos: PhotoCounts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a report shows them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FittedVersion:
    """The result of a fit that is published."""

    adapters: CLIPAdapters
    head: Evidence


@dataclass(frozen=True, slots=True)
class Rest:
    """Pictures that the head uses and the adapter is not fitted on, since memory lacks for them."""

    labels: Tensor  # int64 [N]
    features: Callable[[CLIPAdapters], Tensor]  # adapted, unit [N, e]


def evaluate_and_fit(
    clip: FrozenCLIP,
    prepared: Prepared,
    on_progress: OnProgress = lambda progress: None,
    rest: Rest | None = None,
) -> tuple[FittedVersion, Evaluation]:
    """The adapter and its head, and their evaluation on the prepared pictures.

    Args:
        clip: the frozen CLIP.
        prepared: the pictures that the adapter is fitted on.
        on_progress: is told of each step.
        rest: further pictures for the head. They take no part in the evaluation.

    Raises:
        Exception: any error that `on_progress` raises; this cancels the fit.
    """
    labels, settings = prepared.labels.cpu(), prepared.settings
    folds = held_out_folds(labels, settings.seed)
    everything = torch.arange(len(labels))
    fits = [_others(everything, fold) for fold in folds] + [everything]
    total = _TotalProgress([len(rows) for rows in fits], settings, on_progress)
    judged = []
    for i, (rows, fold) in enumerate(zip(fits, folds, strict=False)):
        adapters = fit_rows(clip, prepared, rows, total.part(i))
        judged.append(_judged(clip, prepared, adapters, rows, fold))
    adapters = fit_rows(clip, prepared, everything, total.part(len(folds)))
    frozen = features(clip, prepared, None, everything)
    offset, chosen = chosen_offset(clip, frozen, labels, settings.seed)
    evaluation = _evaluated(clip, frozen, labels, prepared.classes, folds, judged)
    head = replace(
        _head_of_all(clip, prepared, adapters, rest), offset=offset, scale=_scale(evaluation)
    )
    photos = PhotoCounts(len(head_labels(prepared, rest)), len(labels))
    share = _share(held_out_values(clip, frozen, labels, folds), labels, folds)
    more = replace(evaluation, offset_chosen=chosen, instant=share, photos=photos)
    return FittedVersion(adapters, head), more


def instant_version(
    clip: FrozenCLIP, frozen: Features, labels: Tensor, classes: tuple[str, ...], seed: int
) -> tuple[Evidence, Evaluation]:
    """The head on the frozen CLIP's features, and its evaluation; nothing is trained.

    Args:
        clip: the frozen CLIP.
        frozen: its features of the pictures and of the classes' names.
        labels: the class of each picture, int64 [N].
        classes: their names.
        seed: the seed of the folds, as a fit's, so that both judge the same pictures.
    """
    labels = labels.cpu()
    folds = held_out_folds(labels, seed)
    found = held_out_values(clip, frozen, labels, folds)
    named = frozen.cosines().cpu()
    judged = [_Judged(f, named[fold]) for f, fold in zip(found, folds, strict=True)]
    offset, chosen = chosen_offset(clip, frozen, labels, seed)
    evaluation = _evaluated(clip, frozen, labels, classes, folds, judged)
    head = fit_evidence(frozen.images, labels, frozen.text, clip.logit_scale)
    photos = PhotoCounts(len(labels), 0)
    return (
        replace(head, offset=offset, scale=_scale(evaluation)),
        replace(evaluation, offset_chosen=chosen, kind="instant", photos=photos),
    )


def head_of(clip: FrozenCLIP, prepared: Prepared, seen: Features, rows: Tensor) -> Evidence:
    """The head on the features of the pictures at `rows`, int64 [M]."""
    labels = prepared.labels.cpu()[rows.cpu()]
    return fit_evidence(seen.images, labels, seen.text, clip.logit_scale)


def head_labels(prepared: Prepared, rest: Rest | None) -> Tensor:
    """The class of each picture of the head, int64 [N]."""
    parts = [prepared.labels.cpu(), *([rest.labels] if rest is not None else [])]
    return torch.cat(parts)


def _head_of_all(
    clip: FrozenCLIP, prepared: Prepared, adapters: CLIPAdapters, rest: Rest | None
) -> Evidence:
    seen = features(clip, prepared, adapters, torch.arange(len(prepared)))
    images = [seen.images.cpu(), *([rest.features(adapters).cpu()] if rest is not None else [])]
    labels = head_labels(prepared, rest)
    return fit_evidence(torch.cat(images), labels, seen.text, clip.logit_scale)


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


def held_out_values(
    clip: FrozenCLIP, frozen: Features, labels: Tensor, folds: list[Tensor]
) -> list[Tensor]:
    """An instant version's values of each fold's pictures, float32 [M, C], from the other folds."""
    everything, images = torch.arange(len(labels)), frozen.images.cpu()
    found = []
    for fold in folds:
        rows = _others(everything, fold)
        head = fit_evidence(images[rows], labels[rows], frozen.text, clip.logit_scale).float()
        found.append(judge(head, images[fold]))
    return found


def _share(values: list[Tensor], labels: Tensor, folds: list[Tensor]) -> Share | None:
    if not folds:
        return None
    right = int((torch.cat(values).argmax(1) == labels[torch.cat(folds)]).sum())
    images = sum(map(len, folds))
    return Share(right / images, wilson(right, images), images)


def chosen_offset(
    clip: FrozenCLIP, frozen: Features, labels: Tensor, seed: int
) -> tuple[float, bool]:
    """The offset of names without photos, and whether it was chosen from the photos.

    It is chosen on the frozen CLIP's features, so that no fit has seen the left-out classes.
    """
    offset = choose_offset(frozen.images, labels, frozen.text, clip.logit_scale, seed)
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


def _scale(evaluation: Evaluation) -> float:
    """1/temperature of the head's scores: the fitted one, if there were pictures to fit it on."""
    return evaluation.adapted.logit_scale if evaluation.adapted else SCALE


def _evaluated(
    clip: FrozenCLIP,
    frozen: Features,
    labels: Tensor,
    classes: tuple[str, ...],
    folds: list[Tensor],
    judged: list[_Judged],
) -> Evaluation:
    if not folds:
        return Evaluation(None, None, clip.logit_scale)
    rows = torch.cat(folds)
    found = torch.cat([fold.values for fold in judged])
    named = torch.cat([fold.cosines for fold in judged])
    adapted = report(found, labels[rows], classes, SCALE)
    wrong = mistakes(found, labels[rows], rows, classes, adapted.logit_scale)
    zero_shot = report(frozen.cosines().cpu()[rows], labels[rows], classes, clip.logit_scale)
    by_name = fit_logit_scale(named, labels[rows], clip.logit_scale)
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
