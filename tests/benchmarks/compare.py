"""Two ways to do the same work, timed in turns in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One line of benchmark.json. `ratio` above 1 means that ours is the better one."""

    name: str
    ratio: float | None
    ours: float
    theirs: float | None
    unit: str
    n: int
    spread: float | None  # of the n ratios, largest minus smallest
    target: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rates(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    items: int,
    *,
    n: int,
    unit: str = "images/s",
    target: float | None = None,
    note: str = "",
    warm: bool = True,
) -> Row:
    """Items a second of both, medians of n turns; each is run once before, if `warm`."""
    if warm:
        ours()
        theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(n)]
    ratios = [b / a for a, b in pairs]
    a, b = (items / statistics.median(side) for side in zip(*pairs, strict=True))
    spread = max(ratios) - min(ratios) if n > 1 else None
    return Row(name, statistics.median(ratios), a, b, unit, n, spread, target, note)


def _seconds(work: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    """What a GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
