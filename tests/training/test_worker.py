"""A job from its photos to its versions, and a fit that the worker's memory does not hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from tests.support.random_adapters import random_adapters, random_head
from training import worker
from training.data import ImageSet
from training.evaluation import Evaluation, FittedVersion
from training.fit import Prepared, Progress, default_settings
from training.jobs import FitJob
from training.photos import PhotosChanged, decode_feature, encode_feature
from training.worker import Outcome, Stage, Task, work


class Photos:
    """Photos in memory; remembers which of them were read, and what was kept of them."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self.names = tuple(map(str, range(len(images))))
        self.labels = images.labels
        self.read: list[int] = []
        self.kept: dict[int, Tensor] = {}
        self.deleted: set[int] = set()

    def pixels(self, rows: Sequence[int]) -> Tensor:
        if self.deleted & set(rows):
            raise PhotosChanged
        self.read += rows
        return self._images.pixels[list(rows)]

    def features(self) -> dict[int, Tensor]:
        return dict(self.kept)

    def keep(self, features: dict[int, Tensor]) -> None:
        self.kept |= features


class JobStore:
    """One job; remembers what it did and how it ended."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.events: list[str] = []
        self.begun: Outcome | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None

    def choose(self, job: FitJob) -> FitJob:
        return job

    def claim(self, job: FitJob) -> bool:
        return True

    def load(self, job: FitJob) -> Task:
        return self.task

    def renew(self, job: FitJob) -> bool:
        return True

    def stage(self, job: FitJob, stage: Stage) -> bool:
        self.events.append(stage)
        return False

    def progress(self, job: FitJob, progress: Progress) -> bool:
        self.events.append("step")
        return False

    def begin(self, job: FitJob, outcome: Outcome) -> None:
        self.events.append("begin")
        self.begun = outcome

    def finish(self, job: FitJob, outcome: Outcome) -> None:
        self.outcome = outcome

    def fail(self, job: FitJob, reason: str) -> None:
        self.reason = reason

    def cancelled(self, job: FitJob) -> None: ...

    def sweep(self) -> None: ...


@pytest.fixture
def job_store(clip: FrozenCLIP, few: ImageSet) -> JobStore:
    settings = default_settings(clip, epochs=1, min_steps=1, batch_size=16)
    return JobStore(Task(Photos(few), few.classes, settings, "0" * 64))


def memory_for(batch: int, error: Exception) -> Any:
    """Fits at once where a batch of so many pictures, or fewer, is asked for; else it is full."""

    def limited(clip: FrozenCLIP, prepared: Prepared, on_progress: Any, rest: Any) -> Any:
        if prepared.settings.batch_size > batch:
            raise error
        head = random_head(len(prepared.classes), clip.embed_dim)
        return FittedVersion(random_adapters(clip, 1), head), Evaluation(None, None, 10.0)

    return limited


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fit_that_runs_out_of_memory_is_done_with_smaller_batches(
    job_store: JobStore, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(worker, "evaluate_and_fit", memory_for(4, error))
    work(clip, job_store, FitJob("tenant", "job"))
    assert job_store.outcome is not None and job_store.reason is None
    assert job_store.outcome.settings.batch_size == 4


def test_a_fit_that_no_batch_makes_small_enough_fails_with_the_reason(
    job_store: JobStore, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "evaluate_and_fit", memory_for(1, MemoryError()))
    work(clip, job_store, FitJob("tenant", "job"))
    assert job_store.outcome is None
    assert job_store.reason is not None and "too little memory for this fit" in job_store.reason


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("the shapes differ"), True),
    ],
    ids=["lost", "broken"],
)
def test_a_worker_whose_device_is_lost_takes_no_more_jobs(
    job_store: JobStore,
    clip: FrozenCLIP,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    goes_on: bool,
) -> None:
    monkeypatch.setattr(worker, "evaluate_and_fit", memory_for(0, error))
    assert work(clip, job_store, FitJob("tenant", "job")) == goes_on
    assert job_store.reason is not None
    assert ("device was lost" in job_store.reason) != goes_on


def test_an_instant_version_is_there_before_the_fits_first_step(
    job_store: JobStore, clip: FrozenCLIP, few: ImageSet
) -> None:
    work(clip, job_store, FitJob("tenant", "job"))
    assert job_store.events[:3] == ["reading", "instant", "begin"]
    assert set(job_store.events[3:]) == {"step"}
    assert job_store.begun is not None and job_store.outcome is not None
    assert (job_store.begun.kind, job_store.outcome.kind) == ("instant", "full")
    judged = job_store.begun.metrics["adapted"]
    assert judged["images"] == len(few)
    assert job_store.outcome.metrics["instant"]["accuracy"] == judged["accuracy"]


def test_an_instant_job_reads_each_photo_once_and_trains_nothing(
    job_store: JobStore, clip: FrozenCLIP, few: ImageSet
) -> None:
    job_store.task = replace(job_store.task, kind="instant")
    work(clip, job_store, FitJob("tenant", "job"))
    assert job_store.outcome is not None and job_store.outcome.kind == "instant"
    assert job_store.begun is None and "step" not in job_store.events
    assert job_store.task.photos.read == list(range(len(few)))


def test_a_job_on_more_photos_reads_the_new_ones_alone(
    job_store: JobStore, clip: FrozenCLIP, few: ImageSet
) -> None:
    job_store.task = replace(job_store.task, kind="instant")
    photos = job_store.task.photos
    work(clip, job_store, FitJob("tenant", "job"))
    whole = job_store.outcome
    for row in (3, 11):
        del photos.kept[row]
    photos.read.clear()
    work(clip, job_store, FitJob("tenant", "job"))
    assert photos.read == [3, 11]
    assert job_store.outcome is not None and whole is not None
    assert (job_store.outcome.head.photos.float() - whole.head.photos.float()).abs().max() < 1e-3


def test_a_photo_that_is_deleted_during_a_job_makes_it_read_anew(
    job_store: JobStore, clip: FrozenCLIP
) -> None:
    job_store.task.photos.deleted = {2}
    work(clip, job_store, FitJob("tenant", "job"))
    assert job_store.outcome is None
    assert job_store.reason is not None and "deleted during the fit" in job_store.reason
    assert job_store.events.count("reading") == 3


def test_photos_beyond_the_memory_are_in_the_head_and_not_in_the_adapters_fit(
    job_store: JobStore, clip: FrozenCLIP, few: ImageSet
) -> None:
    tokens = clip.image_lower(few.pixels[:1], job_store.task.settings.adapter.image_first).nbytes
    job_store.task = replace(job_store.task, fit_bytes=2 * tokens * 9)
    work(clip, job_store, FitJob("tenant", "job"))
    outcome = job_store.outcome
    assert outcome is not None
    assert outcome.metrics["photos"] == {"head": len(few), "adapter": 9}
    assert outcome.metrics["adapted"]["images"] == 9  # the evaluation's
    assert len(outcome.head.photos) == len(few)


def test_a_feature_file_that_is_damaged_or_of_something_else_is_not_used() -> None:
    feature = torch.nn.functional.normalize(torch.randn(8), dim=0)
    data = encode_feature("key", "photo", feature)
    found = decode_feature("key", "photo", 8, data)
    assert found is not None and torch.equal(found, feature)
    changed = data[:-1] + bytes([data[-1] ^ 1])
    for of in (("other", "photo", 8, data), ("key", "other", 8, data), ("key", "photo", 9, data)):
        assert decode_feature(*of) is None
    for broken in (changed, data[:-4], b"", encode_feature("key", "photo", 2 * feature)):
        assert decode_feature("key", "photo", 8, broken) is None
