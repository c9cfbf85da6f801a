"""A fit's report on held-out pictures: accuracy, its interval, confusion, calibration."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_Z95 = 1.959964  # the normal's 97.5 % quantile
_BINS = 10  # bins of the calibration error (Guo et al. 2017 use 15 for 10,000 images)
_MISTAKES = 12  # mistakes in a report
_KEEP = 0.95  # the suggested min_score keeps this share of the right answers


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision and recall of one class."""

    name: str
    precision: float | None  # None: no picture was predicted as this class
    recall: float | None  # None: no picture of this class was held out
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Measured on `images` pictures that the fit did not see."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson's
    images: int
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    logit_scale: float  # 1/τ after the temperature was fitted
    calibration_error: float  # expected calibration error at this temperature
    min_score: float  # the 5 % quantile of the right answers' scores

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as API answers show them."""
        return asdict(self)


def report(cosines: Tensor, labels: Tensor, classes: tuple[str, ...], logit_scale: float) -> Report:
    """Evaluates answers, and fits their temperature.

    Args:
        cosines: cosines, or a head's values, float32 [N, C].
        labels: the true classes, int64 [N].
        classes: their C names.
        logit_scale: the start value of the search for 1/τ.

    Returns:
        The report, with the fitted 1/τ.
    """
    cosines, labels = cosines.cpu(), labels.cpu()
    called = cosines.argmax(1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
    confusion.index_put_((labels, called), torch.ones_like(labels), accumulate=True)
    scale = fit_logit_scale(cosines, labels, logit_scale)
    top = F.softmax(scale * cosines, dim=1).amax(1)
    right = called == labels
    return Report(
        accuracy=right.float().mean().item(),
        interval=wilson(int(right.sum()), len(labels)),
        images=len(labels),
        classes=tuple(_class_report(confusion, i, name) for i, name in enumerate(classes)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        logit_scale=scale,
        calibration_error=calibration_error(top, right),
        min_score=float(torch.quantile(top[right], 1 - _KEEP)) if right.any() else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Mistake:
    """A misclassified picture: its row, and the score of the wrong class."""

    row: int
    label: str
    called: str
    score: float


def mistakes(
    cosines: Tensor, labels: Tensor, rows: Tensor, classes: tuple[str, ...], logit_scale: float
) -> tuple[Mistake, ...]:
    """The mistakes with the highest scores, highest first.

    cosines float32 [N, C]; labels and rows int64 [N].
    """
    top, called = F.softmax(logit_scale * cosines, dim=1).max(1)
    wrong = (called != labels).nonzero().squeeze(1)
    worst = wrong[top[wrong].argsort(descending=True)][:_MISTAKES].tolist()
    return tuple(
        Mistake(int(rows[i]), classes[labels[i]], classes[called[i]], float(top[i])) for i in worst
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927)."""
    share, z2 = right / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error over equal bins (Guo et al. 2017): [N] scores, bool [N] → 0…1."""
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    gaps = [
        abs(float(confidence[bins == b].mean() - right[bins == b].float().mean()))
        * int((bins == b).sum())
        for b in bins.unique()
    ]
    return sum(gaps) / len(confidence)


def fit_logit_scale(cosines: Tensor, labels: Tensor, start: float) -> float:
    """Temperature scaling: the 1/τ of least cross-entropy, within a factor of 8 of `start`."""
    factors = torch.logspace(-3, 3, 121, base=2)
    losses = torch.stack([F.cross_entropy(start * f * cosines, labels) for f in factors])
    return start * float(factors[losses.argmin()])


def _class_report(confusion: Tensor, i: int, name: str) -> ClassReport:
    right, called, true = (
        int(confusion[i, i]),
        int(confusion[:, i].sum()),
        int(confusion[i].sum()),
    )
    return ClassReport(
        name, right / called if called else None, right / true if true else None, true
    )
