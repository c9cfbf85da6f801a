"""The worker takes jobs from the queue, fits, and stores the results: one process, one CLIP.

It reaches records and blobs only through a `JobStore`, which the service implements.
"""

import logging
import threading
import time
import traceback
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from torch import Tensor

from adapters.bank import AdapterWeights, export, no_adapter
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from adapters.evidence import Evidence
from adapters.faults import is_lasting, is_out_of_memory
from training.evaluation import Evaluation, Kind, evaluate_and_fit, instant_version
from training.fit import Features, FitSettings, Progress, class_features
from training.jobs import ACTOR, QUEUE, FitJob
from training.photos import FrozenPhotos, Photos, PhotosChanged, rows_in_memory

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 5.0  # the interval between searches for jobs that a crash left unsent
_RENEW_SECONDS = 2.0  # a lease lasts 8 seconds
_STOPPING_SECONDS = 2.0  # until then a lost worker has been told to take no more jobs
_READINGS = 3  # of photos of which some are deleted meanwhile
STOP_MS = 10 * 60 * 1000  # a stopping worker first finishes its fit; a second signal kills it


Stage = Literal["reading", "instant"]  # what a job does before its adapter's first step


class Cancelled(Exception):
    """The fit was told to stop."""


class LeaseLost(Exception):
    """Another worker has the job; this one must not change it any more."""


@dataclass(frozen=True, slots=True)
class Task:
    """One claimed job: its photos, and what is asked for."""

    photos: Photos
    classes: tuple[str, ...]
    settings: FitSettings
    data_digest: str  # digest of the photos' files and labels
    kind: Kind = "full"  # "instant": nothing is trained
    fit_bytes: int = 2**32  # memory for the photos' tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A version that is ready to be stored."""

    kind: Kind
    weights: AdapterWeights
    head: Evidence
    classes: tuple[str, ...]
    settings: FitSettings
    logit_scale: float
    data_digest: str
    metrics: dict[str, Any]


class JobStore(Protocol):
    """Where jobs come from and results go; the service implements it."""

    def at_work(self, job: FitJob) -> AbstractContextManager[None]:
        """The context of all work on a job: log lines within it name the tenant and the job."""

    def choose(self, job: FitJob) -> FitJob:
        """The job to do now: the one that was sent, or one that is due before it."""

    def claim(self, job: FitJob) -> bool:
        """Takes a job; False when there is nothing left to do."""

    def load(self, job: FitJob) -> Task:
        """The photos and settings of a claimed job."""

    def renew(self, job: FitJob) -> bool:
        """Renews the job's lease; False when another worker has it."""

    def stage(self, job: FitJob, stage: Stage) -> bool:
        """Records what the job does before its first step; True when it should stop."""

    def progress(self, job: FitJob, progress: Progress) -> bool:
        """Records the progress; True when the fit should stop."""

    def begin(self, job: FitJob, outcome: Outcome) -> None:
        """Stores and publishes an instant version, if none better is live, while the fit goes on.

        Repeated calls, also after a worker's death, have no effect.
        """

    def finish(self, job: FitJob, outcome: Outcome) -> None:
        """Stores and publishes the result; repeated calls have no effect."""

    def fail(self, job: FitJob, reason: str) -> None:
        """Ends the job as failed, with a reason that its owner may see."""

    def cancelled(self, job: FitJob) -> None:
        """Ends the job as cancelled."""

    def sweep(self) -> None:
        """Sends jobs that a crash left unsent."""


def run(broker: RedisBroker, clip: FrozenCLIP, job_store: JobStore, stop: threading.Event) -> None:
    """Works until `stop`; then finishes the current job and leaves the others in the queue.

    Raises:
        RMAdapterError: the device was lost; a supervisor should start the process anew.
    """
    lost = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=ACTOR)
    def fit_actor(tenant: str, job: str) -> None:
        chosen = job_store.choose(FitJob(tenant, job))
        with job_store.at_work(chosen):
            if not work(clip, job_store, chosen):
                lost.set()
                stop.set()
                time.sleep(_STOPPING_SECONDS)

    worker = dramatiq.Worker(broker, queues={QUEUE}, worker_threads=1)
    worker.queue_prefetch = 1  # a job that one worker has fetched is not available to others
    worker.start()
    log.info("worker ready: %s on %s", clip.name, clip.device)
    while not stop.wait(_SWEEP_SECONDS):
        try:
            job_store.sweep()
        except RMAdapterError as error:  # Redis is away; the queue's threads wait for it too
            log.warning("sweep: %s", error)
    worker.stop(timeout=STOP_MS)
    if lost.is_set():
        raise RMAdapterError("the device was lost: this process cannot use it any more")


def work(clip: FrozenCLIP, job_store: JobStore, job: FitJob) -> bool:
    """Runs one job from claim to end. Any error ends it as failed, with a reason.

    Returns:
        Whether this process can do another one: the device is not lost.
    """
    try:
        if job_store.claim(job):
            with _Lease(job_store, job) as lease:
                job_store.finish(job, _work_on(clip, job_store, job, lease))
    except LeaseLost:
        log.warning("job %s went to another worker", job.job)
    except Cancelled:
        job_store.cancelled(job)
    except RMAdapterError as error:
        job_store.fail(job, str(error))
    except Exception as error:
        log.error("job %s broke:\n%s", job.job, traceback.format_exc())
        if is_lasting(error):
            job_store.fail(job, "the worker's device was lost; start the fit again")
            return False
        job_store.fail(job, "the fit broke; the worker's log has the reason")
    return True


def _work_on(clip: FrozenCLIP, job_store: JobStore, job: FitJob, lease: "_Lease") -> Outcome:
    """The job's result. Where a photo is deleted meanwhile, the photos are read anew."""
    for _ in range(_READINGS):
        try:
            return _Work(clip, job_store, job, lease).outcome()
        except PhotosChanged:
            log.info("job %s: photos were deleted meanwhile; reading them anew", job.job)
    raise RMAdapterError("photos of this data set were deleted during the fit; start it again")


class _Work:
    """One reading of a job's photos: an instant version, and where it is wanted, the fit."""

    def __init__(self, clip: FrozenCLIP, job_store: JobStore, job: FitJob, lease: "_Lease") -> None:
        self._clip, self._job_store, self._job, self._lease = clip, job_store, job, lease
        self._task = job_store.load(job)
        self._photos = FrozenPhotos(clip, self._task.photos, self._task.settings, self._reading)

    def outcome(self) -> Outcome:
        task, photos = self._task, self._photos
        full = task.kind == "full"
        if full:
            photos.fit_on(
                rows_in_memory(self._clip, task.photos.labels, task.settings, task.fit_bytes)
            )
        instant = self._instant(photos.features())
        if full:
            self._job_store.begin(self._job, instant)
        photos.keep()
        return self._full() if full else instant

    def _instant(self, images: Tensor) -> Outcome:
        task, clip = self._task, self._clip
        self._stage("instant")
        text = class_features(clip, None, task.classes, task.settings.template).cpu()
        labels, seed = task.photos.labels, task.settings.seed
        head, evaluation = instant_version(clip, Features(images, text), labels, task.classes, seed)
        return self._made(evaluation, no_adapter(clip), head, task.settings, task.photos.names)

    def _full(self) -> Outcome:
        prepared, rest = self._photos.prepared(self._task.classes), self._photos.rest()
        size = prepared.settings.batch_size
        for batch_size in (size, max(2, size // 4)):
            settings = replace(prepared.settings, batch_size=batch_size)
            try:
                fitted, evaluation = evaluate_and_fit(
                    self._clip, replace(prepared, settings=settings), self._progress, rest
                )
                weights, names = export(fitted.adapters), self._photos.names_fitted()
                return self._made(evaluation, weights, fitted.head, settings, names)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("job %s: out of memory with batches of %d", self._job.job, batch_size)
        raise RMAdapterError(
            f"the worker has too little memory for this fit, even with batches of {batch_size}:"
            " fewer classes or pictures may fit"
        )

    def _made(
        self,
        evaluation: Evaluation,
        weights: AdapterWeights,
        head: Evidence,
        settings: FitSettings,
        names: tuple[str, ...],
    ) -> Outcome:
        return Outcome(
            kind=evaluation.kind,
            weights=weights,
            head=head,
            classes=self._task.classes,
            settings=settings,
            logit_scale=evaluation.logit_scale,
            data_digest=self._task.data_digest,
            metrics=_named(evaluation, names),
        )

    def _reading(self) -> None:
        self._stage("reading")

    def _stage(self, stage: Stage) -> None:
        self._stop_if(self._job_store.stage(self._job, stage))

    def _progress(self, progress: Progress) -> None:
        self._stop_if(self._job_store.progress(self._job, progress))

    def _stop_if(self, cancelled: bool) -> None:
        if self._lease.lost.is_set():
            raise LeaseLost
        if cancelled:
            raise Cancelled


def _named(evaluation: Evaluation, names: tuple[str, ...]) -> dict[str, Any]:
    """The evaluation's fields, with each mistake's picture, by its SHA-256, in place of its row."""
    metrics = evaluation.to_dict()
    for mistake in metrics["mistakes"]:
        mistake["image"] = names[mistake.pop("row")]
    return metrics


class _Lease:
    """Renews a job's lease on a separate thread while the fit runs."""

    def __init__(self, job_store: JobStore, job: FitJob) -> None:
        self._job_store, self._job = job_store, job
        self._done, self.lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "_Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._done.wait(_RENEW_SECONDS):
            try:
                if not self._job_store.renew(self._job):
                    self.lost.set()
            except RMAdapterError as error:
                log.warning("lease of %s: %s", self._job.job, error)
