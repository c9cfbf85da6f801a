"""The field's protocols: base-to-novel, few-shot, cross-data-set, domain generalisation.

The interval of one method's accuracy is Wilson's 95 % over the test pictures of one seed. (Seeds
share their test pictures, so pooling them would make it too narrow.) The interval of the
difference between two methods is Student's 95 % over the paired seeds.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.errors import BadDataset
from training.peers.pool import Fitted, Pool
from training.protocols.datasets import DataSet
from training.report import wilson

# Student's 97.5 % quantile by degrees of freedom; beyond the table, the normal quantile is used
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Interval = tuple[float, float]
Plan = Mapping[str, Callable[[Pool, int], Fitted]]  # label → (training pool, seed) → fitted
OnFit = Callable[[str, int], None]  # (label, seed), after each


@dataclass(frozen=True, slots=True)
class Mixed:
    """Base and novel accuracy among all names at once, means over the seeds."""

    base: float
    novel: float
    hm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One method under one protocol. Accuracies are shares, means over the seeds.

    `base` is the accuracy among the fitted classes' names (few-shot: all classes), or on the target
    data set of a transfer. Only base-to-novel has `novel` and `hm`, the harmonic mean of the two.
    """

    method: str
    base: float
    base_ci: Interval
    novel: float | None
    novel_ci: Interval | None
    hm: float | None
    seconds: float  # of one fit, mean
    parameters: int
    shots: int
    seeds: tuple[int, ...]
    base_by_seed: tuple[float, ...]
    novel_by_seed: tuple[float, ...]
    target: str | None = None  # the test data set of a transfer
    mixed: Mixed | None = None  # of base-to-novel, if requested
    confusion: tuple[tuple[int, ...], ...] = ()  # [true][predicted], all seeds, on `classes`
    classes: tuple[str, ...] = ()  # the classes of `base`

    def to_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The figures alone, without the confusion matrix and its classes."""
        return {k: v for k, v in asdict(self).items() if k not in ("confusion", "classes")}

    def score_by_seed(self) -> tuple[float, ...]:
        """The score that compares methods: the harmonic mean if there is one, else `base`."""
        if not self.novel_by_seed:
            return self.base_by_seed
        pairs = zip(self.base_by_seed, self.novel_by_seed, strict=True)
        return tuple(harmonic_mean(base, novel) for base, novel in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`method` minus `peer`, mean over paired seeds, and Student's interval (None: one seed)."""

    method: str
    peer: str
    mean: float
    interval: Interval | None
    shots: int
    target: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Tally:
    """The results of one fit on one set: confusion int64 [C, C], and the C class names."""

    confusion: Tensor
    classes: tuple[str, ...]

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return int(self.confusion.trace()) / self.images


def harmonic_mean(base: float, novel: float) -> float:
    """2bn / (b + n); 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def base_to_novel(
    data: DataSet,
    plan: Plan,
    shots: int,
    seeds: Sequence[int],
    on_fit: OnFit = lambda label, seed: None,
    mixed: bool = False,
) -> list[Result]:
    """Trains on the first half of the sorted classes; each half is tested among its own names.

    With `mixed`, both halves are tested among all names too.
    """
    half = math.ceil(len(data.classes) / 2)  # as CoOp: of an odd number, base has one more

    def draw(seed: int) -> tuple[Pool, list[Pool]]:
        drawn, test = data.draw(shots, seed)
        return drawn.only(0, half), [test.only(0, half), test.only(half, len(data.classes))]

    runs = _runs(plan, seeds, on_fit, draw, data.classes if mixed else None)
    return [_result(label, runs[label], shots, seeds, novel=1) for label in plan]


def few_shot_accuracy(
    data: DataSet,
    plan: Plan,
    shots: int,
    seeds: Sequence[int],
    on_fit: OnFit = lambda label, seed: None,
) -> list[Result]:
    """Trains and tests on all classes."""

    def draw(seed: int) -> tuple[Pool, list[Pool]]:
        train, test = data.draw(shots, seed)
        return train, [test]

    runs = _runs(plan, seeds, on_fit, draw)
    return [_result(label, runs[label], shots, seeds) for label in plan]


def transfer(
    source: DataSet,
    targets: Mapping[str, DataSet],
    plan: Plan,
    shots: int,
    seeds: Sequence[int],
    on_fit: OnFit = lambda label, seed: None,
) -> list[Result]:
    """Trains on all classes of the source and tests on each target among the target's own names.

    This is the cross-data-set protocol. If the targets have the same classes in another domain, it
    is domain generalisation.
    """
    tests = [target.everything() for target in targets.values()]
    runs = _runs(plan, seeds, on_fit, lambda seed: (source.draw(shots, seed)[0], tests))
    return [
        _result(label, runs[label], shots, seeds, at=i, target=target)
        for i, target in enumerate(targets)
        for label in plan
    ]


def check_same_classes(source: DataSet, targets: Mapping[str, DataSet]) -> None:
    """Raises BadDataset unless every target's classes are among the source's."""
    for name, target in targets.items():
        others = sorted(set(target.classes) - set(source.classes))
        if others:
            raise BadDataset(f"{name} has classes that the source lacks: {', '.join(others[:5])}")


def differences(results: Sequence[Result], method: str = "rmadapter") -> list[Difference]:
    """The differences of `method` from every other method, by target and shots."""
    found = []
    for mine in (r for r in results if r.method == method):
        for peer in results:
            same = (peer.target, peer.shots) == (mine.target, mine.shots)
            if peer.method != method and same:
                pairs = zip(mine.score_by_seed(), peer.score_by_seed(), strict=True)
                gaps = [a - b for a, b in pairs]
                mean, interval = statistics.fmean(gaps), student(gaps)
                found.append(
                    Difference(
                        method=method,
                        peer=peer.method,
                        mean=mean,
                        interval=interval,
                        shots=mine.shots,
                        target=mine.target,
                    )
                )
    return found


def student(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean of a few values; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    quantile = _STUDENT[n - 2] if n - 2 < len(_STUDENT) else 1.96
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class _Run:
    """One fit: its tallies by test set, its time, its size."""

    tallies: list[_Tally]
    seconds: float
    parameters: int
    mixed: tuple[float, ...] = ()  # accuracy of each test set among all names


def _runs(
    plan: Plan,
    seeds: Sequence[int],
    on_fit: OnFit,
    draw: Callable[[int], tuple[Pool, list[Pool]]],
    names: Sequence[str] | None = None,
) -> dict[str, list[_Run]]:
    """Every method on the same draws: `draw` gives (training pictures, test sets) of a seed.

    `names`: all names; each test set is also judged among them.
    """
    runs: dict[str, list[_Run]] = {label: [] for label in plan}
    for seed in seeds:
        train, tests = draw(seed)
        for label, fit in plan.items():
            runs[label].append(_run(fit, train, seed, tests, names))
            on_fit(label, seed)
    return runs


def _run(
    fit: Callable[[Pool, int], Fitted],
    train: Pool,
    seed: int,
    tests: list[Pool],
    names: Sequence[str] | None,
) -> _Run:
    started = time.perf_counter()
    fitted = fit(train, seed)
    seconds = time.perf_counter() - started
    mixed = () if names is None else tuple(_among(fitted, test, names) for test in tests)
    return _Run([_tally(fitted, test) for test in tests], seconds, fitted.parameters, mixed)


def _among(fitted: Fitted, test: Pool, names: Sequence[str]) -> float:
    """The accuracy of a test set among names that include its own."""
    places = torch.tensor([names.index(name) for name in test.classes])
    called = fitted.cosines(test, names).argmax(1).cpu()
    return float((called == places[test.labels]).float().mean())


def _tally(fitted: Fitted, test: Pool) -> _Tally:
    if not len(test):
        raise BadDataset("no test picture is left for some classes: fewer shots leave more")
    called = fitted.cosines(test, test.classes).argmax(1).cpu()
    confusion = torch.zeros(len(test.classes), len(test.classes), dtype=torch.long)
    confusion.index_put_((test.labels, called), torch.ones_like(called), accumulate=True)
    return _Tally(confusion, test.classes)


def _result(
    label: str,
    runs: list[_Run],
    shots: int,
    seeds: Sequence[int],
    at: int = 0,
    novel: int | None = None,
    target: str | None = None,
) -> Result:
    base = [run.tallies[at] for run in runs]
    other = [] if novel is None else [run.tallies[novel] for run in runs]
    base_mean = statistics.fmean(t.accuracy for t in base)
    novel_mean = statistics.fmean(t.accuracy for t in other) if other else None
    total = sum((t.confusion for t in base), torch.zeros_like(base[0].confusion))
    return Result(
        method=label,
        base=base_mean,
        base_ci=_interval(base),
        novel=novel_mean,
        novel_ci=_interval(other) if other else None,
        hm=None if novel_mean is None else harmonic_mean(base_mean, novel_mean),
        seconds=statistics.fmean(run.seconds for run in runs),
        parameters=runs[0].parameters,
        shots=shots,
        seeds=tuple(seeds),
        base_by_seed=tuple(t.accuracy for t in base),
        novel_by_seed=tuple(t.accuracy for t in other),
        target=target,
        mixed=_mixed(runs),
        confusion=tuple(tuple(row) for row in total.tolist()),
        classes=base[0].classes,
    )


def _mixed(runs: list[_Run]) -> Mixed | None:
    if not runs[0].mixed:
        return None
    base, novel = (statistics.fmean(run.mixed[i] for run in runs) for i in (0, 1))
    return Mixed(base, novel, harmonic_mean(base, novel))


def _interval(tallies: list[_Tally]) -> Interval:
    """Wilson's interval, as if the mean accuracy was measured on one seed's pictures."""
    images = round(statistics.fmean(t.images for t in tallies))
    return wilson(round(statistics.fmean(t.accuracy for t in tallies) * images), images)
