"""The worker process: jobs from the records, photos from the object store, results to both."""

import functools
import hashlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from prometheus_client import start_http_server

from adapters.artifact import Artifact, Manifest, decode_artifact, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from adapters.pixels import ImageLimits
from service import logs, metrics, tracing
from service.errors import Conflict, NotFound, Unavailable
from service.records import Records
from service.records.adapters import Version, summary
from service.records.fit_params import FitParams
from service.records.jobs import LEASE_SECONDS, MAX_ATTEMPTS, Job
from service.records.store import now
from service.settings import Settings
from service.wiring import broker_of, clip_to_fit_with, image_limits, records_of
from training import worker as training_worker
from training.data import Sample, check_label_counts, image_set
from training.fit import Progress
from training.jobs import FitJob
from training.worker import LeaseLost, Outcome, Task

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.2  # between two writes of a job's progress
_PATIENCE_SECONDS = 600.0  # a store that is away for longer fails the job
_AGAIN_SECONDS = 1.0

P = ParamSpec("P")
R = TypeVar("R")


def _patiently(method: Callable[P, R]) -> Callable[P, R]:
    """Waits for a store that is away: a fit is not lost for it. For calls that may be repeated."""

    @functools.wraps(method)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return method(*args, **kwargs)
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s: %s; again in a second", method.__name__, error)
                time.sleep(_AGAIN_SECONDS)

    return patient


class TookTooLong(RMAdapterError):
    """A fit that held its worker for longer than the settings allow."""


class RecordedJobs:
    """A `training.worker.JobStore` over the records, for one worker process and its CLIP."""

    def __init__(
        self,
        records: Records,
        clip: FrozenCLIP,
        limits: ImageLimits,
        min_images: int,
        fit_seconds: float,
    ) -> None:
        self._records, self._clip = records, clip
        self._limits, self._min_images = limits, min_images
        self._fit_seconds = fit_seconds
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._next_progress = 0.0
        self._claimed_at = time.monotonic()

    @contextmanager
    def at_work(self, job: FitJob) -> Iterator[None]:
        """Logs and traces within it name the job."""
        trace = None
        if tracing.is_on():
            with suppress(Unavailable):
                trace = self._records.jobs.trace(job.tenant, job.job)
        about = {"tenant": job.tenant, "job": job.job}
        with logs.about(**about), tracing.span("fit", trace, **about):
            yield

    @_patiently
    def choose(self, job: FitJob) -> FitJob:
        """The job to do now: the one that was sent, or another tenant's that is due before it."""
        return self._records.jobs.fairest(job)

    @_patiently
    def claim(self, job: FitJob) -> bool:
        """Takes a job for this worker. False when there is nothing to do for it."""
        claimed = self._take(job)
        if claimed is None:
            return False
        if claimed.attempts > MAX_ATTEMPTS:
            self.fail(job, f"{MAX_ATTEMPTS} workers died while they fitted this")
            return False
        if claimed.cancel_requested:
            self.cancelled(job)
            return False
        log.info("job %s: attempt %d", job.job, claimed.attempts)
        self._claimed_at = time.monotonic()
        return True

    def _take(self, job: FitJob) -> Job | None:
        """Waits for the lease of a worker that died to end; a living one keeps it."""
        deadline = time.monotonic() + LEASE_SECONDS + 1
        while True:
            try:
                return self._records.jobs.claim(job, self._worker)
            except Conflict:
                if time.monotonic() > deadline or self._records.jobs.went_ahead(job):
                    return None
                time.sleep(_AGAIN_SECONDS / 2)

    @_patiently
    def load(self, job: FitJob) -> Task:
        """The job's photos, decoded, and its settings."""
        spec = self._job(job).spec
        labels = self._records.datasets.get(job.tenant, spec.dataset).labels
        check_label_counts(labels, self._min_images)
        self._clip.check_names(list(labels), FitParams(**spec.params).template)
        digest, names = hashlib.sha256(), list[str]()
        stored = self._records.datasets.samples(job.tenant, spec.dataset)
        samples = _digested(stored, digest, names)
        images = image_set(samples, self._clip.spec, self._limits)
        settings = FitParams(**spec.params).settings(self._clip)
        return Task(images, settings, digest.hexdigest(), tuple(names))

    def renew(self, job: FitJob) -> bool:
        """Renews the lease. False when another worker has the job."""
        return self._records.jobs.renew(job, self._worker)

    def progress(self, job: FitJob, progress: Progress) -> bool:
        """Records how far the fit is. True when it should stop."""
        if time.monotonic() - self._claimed_at > self._fit_seconds:
            raise TookTooLong(f"the fit took longer than the {self._fit_seconds:g} s allowed")
        if progress.step < progress.steps and time.monotonic() < self._next_progress:
            return False
        self._next_progress = time.monotonic() + _PROGRESS_SECONDS
        try:
            return self._records.jobs.record_progress(job, progress)
        except Unavailable:  # nobody can read it now either
            return False

    @_patiently
    def finish(self, job: FitJob, outcome: Outcome) -> None:
        """Stores and publishes a version, and ends the job."""
        if not self.renew(job):
            raise LeaseLost
        spec = self._job(job).spec
        number = self._records.jobs.reserve_version(
            job, self._records.adapters.next_number(job.tenant, spec.adapter)
        )
        manifest = self._manifest(job, spec.adapter, number, spec.dataset, outcome)
        data = encode_artifact(Artifact(manifest, outcome.weights, outcome.head))
        decode_artifact(data)  # by the reader's own rules, before anybody is told of it
        version = self._records.adapters.add(manifest, data)
        published = self._publish(version, spec.publish)
        self._end(job, "succeeded", metrics=summary(version.metrics), published=published)
        log.info("job %s: %s version %d", job.job, spec.adapter, number)

    @_patiently
    def fail(self, job: FitJob, reason: str) -> None:
        """Ends the job with a reason that its owner reads."""
        log.warning("job %s failed: %s", job.job, reason)
        self._end(job, "failed", error=reason)

    @_patiently
    def cancelled(self, job: FitJob) -> None:
        """Ends the job as cancelled."""
        self._end(job, "cancelled")

    def sweep(self) -> None:
        """Takes up what dead workers left, in jobs and in erasures."""
        self._records.jobs.dispatch_all()
        self._records.tenants.sweep()
        self._records.deletion.sweep()

    def _job(self, job: FitJob) -> Job:
        return self._records.jobs.get(job.tenant, job.job)

    def _end(self, job: FitJob, state: Any, **fields: Any) -> None:
        """A worker that was silent for too long does not speak over the one that has the job."""
        if not self.renew(job):
            return
        self._records.jobs.end(job.tenant, job.job, state, **fields)
        metrics.FITS.labels(state).inc()
        metrics.FIT_SECONDS.observe(time.monotonic() - self._claimed_at)
        self._records.jobs.release(job, self._worker)

    def _manifest(
        self, job: FitJob, adapter: str, number: int, dataset: str, outcome: Outcome
    ) -> Manifest:
        clip, config = self._clip, outcome.settings.adapter
        info = {
            "job": job.job,
            "settings": outcome.settings.to_dict(),
            "metrics": outcome.metrics | {"dataset": dataset},
            "data_digest": outcome.data_digest,
            "tags": self._tags(job, dataset, outcome.classes),
        }
        return Manifest(
            clip=clip.name,
            fingerprint=clip.fingerprint,
            tenant=job.tenant,
            adapter=adapter,
            version=number,
            classes=outcome.classes,
            template=outcome.settings.template,
            logit_scale=outcome.logit_scale,
            image_first=config.image_first,
            text_first=config.text_first,
            created_at=now(),
            info=info,
        )

    def _tags(self, job: FitJob, dataset: str, classes: Sequence[str]) -> dict[str, str]:
        """The ids that a tool gave to these classes; none where the data set has gone meanwhile."""
        try:
            tags = self._records.datasets.get(job.tenant, dataset).tags
        except NotFound:
            return {}
        return {name: tags[name] for name in classes if name in tags}

    def _publish(self, version: Version, publish: bool | str) -> bool:
        if publish is False:
            return False

        def allowed(live: Version | None) -> bool:
            return publish is True or not_worse(version, live)

        return self._records.adapters.publish(
            version.tenant, version.adapter, version.number, allowed
        )


def _digested(
    samples: Iterator[Sample], digest: "hashlib._Hash", names: list[str]
) -> Iterator[Sample]:
    """Passes them on; adds to the digest of all, and the SHA-256 of each to the names."""
    for sample in samples:
        own = hashlib.sha256(sample.data)
        digest.update(f"{sample.label}\0".encode() + own.digest())
        names.append(own.hexdigest())
        yield sample


def not_worse(version: Version, live: Version | None) -> bool:
    """The gate of `publish: "if_better"`.

    A version passes when its held-out accuracy is not below zero-shot's, nor below the live
    version's. A version that could not be judged does not pass.
    """
    adapted, zero_shot = version.metrics.get("adapted"), version.metrics.get("zero_shot")
    if not adapted or not zero_shot or adapted["accuracy"] < zero_shot["accuracy"]:
        return False
    before = live.metrics.get("adapted") if live else None
    return not before or bool(adapted["accuracy"] >= before["accuracy"])


def run(settings: Settings, parent: int | None = None) -> None:
    """Works on jobs until SIGTERM or SIGINT; the fit in hand is ended first.

    Args:
        settings: which records, CLIP and limits.
        parent: a process id; the worker also stops when that process is gone.

    Raises:
        NewerFormat: a newer release wrote what is stored.
    """
    stop = threading.Event()
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port)
    records = records_of(settings)
    records.start()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if parent is not None:
        threading.Thread(target=_stop_with, args=(parent, stop), daemon=True).start()
    clip = clip_to_fit_with(settings)
    job_store = RecordedJobs(
        records, clip, image_limits(settings), settings.min_images, settings.fit_seconds
    )
    training_worker.run(broker_of(settings), clip, job_store, stop)
    tracing.flush()


def _stop_with(parent: int, stop: threading.Event) -> None:
    """A parent that was killed cannot stop its children."""
    while os.getppid() == parent:
        time.sleep(1.0)
    stop.set()
