"""A fit that the worker's memory does not hold: once more with less, then a clear end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adapters.clip import FrozenCLIP
from tests.support.random_adapters import random_adapters, random_head
from training import worker
from training.data import ImageSet
from training.evaluation import FittedVersion
from training.fit import Progress, default_settings
from training.jobs import FitJob
from training.worker import Outcome, Task, work


class JobStore:
    """One job; remembers how it ended."""

    def __init__(self, task: Task) -> None:
        self.task = task
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

    def progress(self, job: FitJob, progress: Progress) -> bool:
        return False

    def finish(self, job: FitJob, outcome: Outcome) -> None:
        self.outcome = outcome

    def fail(self, job: FitJob, reason: str) -> None:
        self.reason = reason

    def cancelled(self, job: FitJob) -> None: ...

    def sweep(self) -> None: ...


@pytest.fixture
def job_store(clip: FrozenCLIP, few: ImageSet) -> JobStore:
    settings = default_settings(clip, epochs=1, min_steps=1, batch_size=16)
    return JobStore(Task(few, settings, "0" * 64, tuple(map(str, range(len(few))))))


def memory_for(batch: int, error: Exception) -> Any:
    """Fits at once where a batch of so many pictures, or fewer, is asked for; else it is full."""

    def limited(clip: FrozenCLIP, images: ImageSet, settings: Any, on_progress: Any) -> Any:
        if settings.batch_size > batch:
            raise error
        head = random_head(len(images.classes), clip.embed_dim)
        return FittedVersion(random_adapters(clip, 1), head), SimpleNamespace(
            logit_scale=10.0, to_dict=lambda: {"mistakes": []}
        )

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
