"""Plots of results: accuracy by photos per class, or base against novel; confusion matrix.

It is imported only for a plot, since matplotlib is an extra.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from training.protocols import Interval, Result

_MAX_NAMES = 40  # more than these on an axis cannot be read


def draw(results: Sequence[Result], file: Path) -> None:
    """Writes a PNG: all results on the left, RMAdapter's last confusion matrix on the right."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    if results[0].novel is not None:
        _base_against_novel(left, results)
    else:
        _by_shots(left, results)
    left.legend()
    _confusion(right, next((r for r in reversed(results) if r.method == "rmadapter"), results[-1]))
    figure.savefig(file, dpi=120, format="png")


def _base_against_novel(axes: Any, results: Sequence[Result]) -> None:
    for r in results:
        assert r.novel is not None and r.novel_ci is not None
        bars = {"xerr": _arms([r.base], [r.base_ci]), "yerr": _arms([r.novel], [r.novel_ci])}
        axes.errorbar(100 * r.base, 100 * r.novel, fmt="o", capsize=3, label=r.method, **bars)
    axes.set(xlabel="base accuracy, %", ylabel="novel accuracy, %")


def _by_shots(axes: Any, results: Sequence[Result]) -> None:
    for key in dict.fromkeys((r.method, r.target) for r in results):
        line = [r for r in results if (r.method, r.target) == key]
        axes.errorbar(
            [r.shots for r in line],
            [100 * r.base for r in line],
            yerr=_arms([r.base for r in line], [r.base_ci for r in line]),
            fmt="o-",
            capsize=3,
            label=" on ".join(part for part in key if part),
        )
    axes.set(xlabel="photos per class", ylabel="accuracy, %", xscale="log")
    axes.set_xticks(sorted({r.shots for r in results}))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _arms(means: Sequence[float], intervals: Sequence[Interval]) -> list[list[float]]:
    """How far each 95 % interval reaches down, and up, in points: [2, N]."""
    pairs = list(zip(means, intervals, strict=True))
    down = [100 * (mean - low) for mean, (low, _) in pairs]
    return [down, [100 * (high - mean) for mean, (_, high) in pairs]]


def _confusion(axes: Any, result: Result) -> None:
    axes.imshow(result.confusion, cmap="Blues")
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"{result.method}, {result.shots} photos per class",
    )
    if len(result.classes) <= _MAX_NAMES:
        places = range(len(result.classes))
        axes.set_xticks(places, result.classes, rotation=90)
        axes.set_yticks(places, result.classes)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
