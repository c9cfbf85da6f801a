"""The field's protocols: base-to-novel, few-shot, cross-data-set, domain generalisation.

Intervals: of one method's accuracy, Wilson's 95 % over the test pictures of one seed (the seeds
share their test pictures, so pooling them would promise too much). Of the difference between two
methods, Student's 95 % over the paired seeds.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset
from training.baselines import Fitted, Pool, make_pool
from training.data import ImageSet, Sample, few_shot, image_set, read_samples
from training.report import wilson

# Student's 97.5 % quantile by degrees of freedom; beyond the table, the normal's
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Interval = tuple[float, float]
Plan = Mapping[str, Callable[[Pool, int], Fitted]]  # label → (training pool, seed) → fitted
OnFit = Callable[[str, int], None]  # (label, seed), after each


@dataclass(frozen=True, slots=True)
class Listing:
    """Pictures not yet decoded: a file or its bytes, and its class's number."""

    items: tuple[Path | bytes, ...]
    labels: Tensor  # int64 [N]
    classes: tuple[str, ...]

    def take(self, rows: Tensor) -> "Listing":
        """The pictures at `rows`, int64 [M]; the classes stay."""
        return Listing(tuple(self.items[i] for i in rows.tolist()), self.labels[rows], self.classes)

    def decode(self, clip: FrozenCLIP) -> ImageSet:
        """The pictures as the CLIP wants them; raises BadDataset for a broken one."""
        data = (item if isinstance(item, bytes) else item.read_bytes() for item in self.items)
        numbered = (Sample(f"{i:08d}", str(i), bytes_) for i, bytes_ in enumerate(data))
        pixels = image_set(numbered, clip.spec).pixels
        return ImageSet(pixels, self.labels, self.classes)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set; without a test split of its own, the pictures not drawn are the test pictures."""

    clip: FrozenCLIP
    train: Listing | Pool
    test: Pool | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def draw(self, shots: int, seed: int) -> tuple[Pool, Pool]:
        """(`shots` training pictures a class, the test pictures); no picture is in both."""
        drawn, others = few_shot(self.train.labels, shots, seed)
        if isinstance(self.train, Listing):
            assert self.test is not None
            return make_pool(self.clip, self.train.take(drawn).decode(self.clip)), self.test
        test = self.test if self.test is not None else self.train.take(others)
        if not len(test):
            raise BadDataset(f"with {shots} shots no picture is left to test on")
        return self.train.take(drawn), test

    def everything(self) -> Pool:
        """The test pictures of a data set that nothing is trained on: its test split, or all."""
        if self.test is not None:
            return self.test
        assert isinstance(self.train, Pool)
        return self.train


def read_dataset(clip: FrozenCLIP, path: Path) -> DataSet:
    """A zip or a folder a class, or a data set in CoOp's layout.

    Raises:
        BadDataset: neither, or a broken picture.
    """
    if path.is_dir() and (
        any(path.glob("split_zhou_*.json")) or (path / "classnames.txt").exists()
    ):
        train, test = read_coop(path)
        return DataSet(clip, train, make_pool(clip, test.decode(clip)))
    return DataSet(clip, make_pool(clip, image_set(read_samples(path), clip.spec)), None)


def read_coop(folder: Path) -> tuple[Listing, Listing]:
    """CoOp's layout: (training, test) pictures, classes in the order of their numbers.

    `split_zhou_*.json` holds {"train": [[path, label, class name], …], "val": …, "test": …}; the
    paths start at one of the folder's subfolders. ImageNet has no such file, but `classnames.txt`
    and `images/train`, `images/val`.

    Raises:
        BadDataset: no split file, or a picture it names is not there.
    """
    files = sorted(folder.glob("split_zhou_*.json"))
    if not files and (folder / "classnames.txt").exists():
        return _imagenet(folder, "train"), _imagenet(folder, "val")
    if not files:
        raise BadDataset(f"{folder} has no split_zhou_*.json")
    split = json.loads(files[0].read_text())
    names = {int(label): str(name) for part in split.values() for _, label, name in part}
    if sorted(names) != list(range(len(names))):
        raise BadDataset(f"{files[0].name}: its labels are not 0…{len(names) - 1}")
    classes = tuple(names[i] for i in range(len(names)))
    root = _image_root(folder, str(split["train"][0][0]))
    return _split(root, split["train"], classes), _split(root, split["test"], classes)


def _image_root(folder: Path, first: str) -> Path:
    for root in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if (root / first).exists():
            return root
    raise BadDataset(f"{folder}: {first}, named by its split file, is in none of its folders")


def _split(root: Path, rows: Iterable[tuple[str, int, str]], classes: tuple[str, ...]) -> Listing:
    rows = list(rows)
    labels = torch.tensor([int(label) for _, label, _ in rows])
    return Listing(tuple(root / str(path) for path, _, _ in rows), labels, classes)


def _imagenet(folder: Path, part: str) -> Listing:
    lines = (folder / "classnames.txt").read_text().splitlines()
    named = [line.strip().split(" ", 1) for line in lines if line.strip()]
    files = [sorted((folder / "images" / part / number).iterdir()) for number, _ in named]
    labels = torch.repeat_interleave(torch.tensor([len(group) for group in files]))
    return Listing(
        tuple(file for group in files for file in group), labels, tuple(n for _, n in named)
    )


@dataclass(frozen=True, slots=True)
class Result:
    """One method under one protocol. Accuracies are shares, means over the seeds.

    `base` is the accuracy among the fitted classes' names (few-shot: all classes), or on the target
    data set of a transfer; `novel` and `hm`, their harmonic mean, are of base-to-novel alone.
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
    target: str | None = None  # the data set tested on, where it is not the one trained on
    confusion: tuple[tuple[int, ...], ...] = ()  # [true][called], all seeds, on `classes`
    classes: tuple[str, ...] = ()  # those that `base` is among

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def score_by_seed(self) -> tuple[float, ...]:
        """What two methods are compared by: the harmonic mean if there is one, else `base`."""
        if not self.novel_by_seed:
            return self.base_by_seed
        pairs = zip(self.base_by_seed, self.novel_by_seed, strict=True)
        return tuple(harmonic_mean(base, novel) for base, novel in pairs)


@dataclass(frozen=True, slots=True)
class Difference:
    """`method` minus `peer`, mean over paired seeds, and Student's interval (None: one seed)."""

    method: str
    peer: str
    mean: float
    interval: Interval | None
    shots: int
    target: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Tally:
    """Right answers of one fit on one set: confusion int64 [C, C], and the C class names."""

    confusion: Tensor
    classes: tuple[str, ...]

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return int(self.confusion.trace()) / self.images


def harmonic_mean(base: float, novel: float) -> float:
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def base_to_novel(
    data: DataSet,
    plan: Plan,
    shots: int,
    seeds: Sequence[int],
    on_fit: OnFit = lambda label, seed: None,
) -> list[Result]:
    """Trains on the first half of the sorted classes; each half is tested among its own names."""
    half = math.ceil(len(data.classes) / 2)  # CoOp's: of an odd number, one more is base

    def draw(seed: int) -> tuple[Pool, list[Pool]]:
        drawn, test = data.draw(shots, seed)
        return drawn.only(0, half), [test.only(0, half), test.only(half, len(data.classes))]

    runs = _runs(plan, seeds, on_fit, draw)
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
    """Trains on all classes of the source, tests on each target among the target's own names:
    cross-data-set, and with the same classes in another look, domain generalisation."""
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
    """`method` against every other one, by target and shots."""
    found = []
    for mine in (r for r in results if r.method == method):
        for peer in results:
            same = (peer.target, peer.shots) == (mine.target, mine.shots)
            if peer.method != method and same:
                pairs = zip(mine.score_by_seed(), peer.score_by_seed(), strict=True)
                gaps = [a - b for a, b in pairs]
                mean, interval = statistics.fmean(gaps), student(gaps)
                where = mine.shots, mine.target
                found.append(Difference(method, peer.method, mean, interval, *where))
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


def _runs(
    plan: Plan,
    seeds: Sequence[int],
    on_fit: OnFit,
    draw: Callable[[int], tuple[Pool, list[Pool]]],
) -> dict[str, list[_Run]]:
    """Every method on the same draws: `draw` gives (training pictures, test sets) of a seed."""
    runs: dict[str, list[_Run]] = {label: [] for label in plan}
    for seed in seeds:
        train, tests = draw(seed)
        for label, fit in plan.items():
            runs[label].append(_run(fit, train, seed, tests))
            on_fit(label, seed)
    return runs


def _run(fit: Callable[[Pool, int], Fitted], train: Pool, seed: int, tests: list[Pool]) -> _Run:
    started = time.perf_counter()
    fitted = fit(train, seed)
    seconds = time.perf_counter() - started
    return _Run([_tally(fitted, test) for test in tests], seconds, fitted.parameters)


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
        confusion=tuple(tuple(row) for row in total.tolist()),
        classes=base[0].classes,
    )


def _interval(tallies: list[_Tally]) -> Interval:
    """Wilson's, as if the mean accuracy had been measured on one seed's pictures."""
    images = round(statistics.fmean(t.images for t in tallies))
    return wilson(round(statistics.fmean(t.accuracy for t in tallies) * images), images)
