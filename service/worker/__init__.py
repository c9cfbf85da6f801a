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
from typing import Any

from prometheus_client import start_http_server

from adapters.artifact import Artifact, Manifest, decode_artifact, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from adapters.pixels import ImageLimits
from service import logs, metrics, tracing
from service.errors import Conflict, NotFound, Unavailable
from service.records import Records
from service.records.adapters import Adapter, Version, summary
from service.records.datasets import Listed
from service.records.fit_params import FitParams
from service.records.jobs import LEASE_SECONDS, MAX_ATTEMPTS, Job, JobSpec, Publish
from service.records.store import now
from service.settings import Settings
from service.wiring import broker_of, clip_to_fit_with, image_limits, records_of
from service.worker.patience import patiently
from service.worker.promotion import may_begin, not_worse, not_worse_than_instant
from service.worker.stored_photos import StoredPhotos
from training import worker as training_worker
from training.data import check_label_counts
from training.fit import Progress
from training.jobs import FitJob
from training.worker import LeaseLost, Outcome, Task

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.2  # between two writes of a job's progress
_AGAIN_SECONDS = 1.0


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
        fit_bytes: int,
    ) -> None:
        self._records, self._clip = records, clip
        self._limits, self._min_images = limits, min_images
        self._fit_seconds, self._fit_bytes = fit_seconds, fit_bytes
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

    @patiently
    def choose(self, job: FitJob) -> FitJob:
        """The job to do now: the one that was sent, or another tenant's that is due before it."""
        return self._records.jobs.fairest(job)

    @patiently
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

    @patiently
    def load(self, job: FitJob) -> Task:
        """The job's photos and its settings; no photo is read yet."""
        spec = self._job(job).spec
        labels = self._records.datasets.get(job.tenant, spec.dataset).labels
        check_label_counts(labels, self._min_images)
        params = FitParams(**spec.params)
        self._clip.check_names(list(labels), params.template)
        listed = self._records.datasets.listing(job.tenant, spec.dataset)
        photos = StoredPhotos(
            self._records, self._clip, self._limits, job.tenant, spec.dataset, listed
        )
        return Task(
            photos=photos,
            classes=photos.classes,
            settings=params.settings(self._clip),
            data_digest=_digest(listed),
            kind=spec.fit,
            fit_bytes=self._fit_bytes,
        )

    def renew(self, job: FitJob) -> bool:
        """Renews the lease. False when another worker has the job."""
        return self._records.jobs.renew(job, self._worker)

    def stage(self, job: FitJob, stage: str) -> bool:
        """Records what the job does before its first step. True when it should stop."""
        return self._report(lambda: self._records.jobs.record_stage(job, stage))

    def progress(self, job: FitJob, progress: Progress) -> bool:
        """Records how far the fit is. True when it should stop."""
        if progress.step < progress.steps and time.monotonic() < self._next_progress:
            self._check_time()
            return False
        self._next_progress = time.monotonic() + _PROGRESS_SECONDS
        return self._report(lambda: self._records.jobs.record_progress(job, progress))

    def _report(self, report: Callable[[], bool]) -> bool:
        self._check_time()
        try:
            return report()
        except Unavailable:  # nobody can read it now either
            return False

    def _check_time(self) -> None:
        if time.monotonic() - self._claimed_at > self._fit_seconds:
            raise TookTooLong(f"the fit took longer than the {self._fit_seconds:g} s allowed")

    @patiently
    def begin(self, job: FitJob, outcome: Outcome) -> None:
        """Publishes an instant version, unless a better one is live or the job did it before."""
        if not self.renew(job):
            raise LeaseLost
        stored = self._job(job)
        spec, adapters = stored.spec, self._records.adapters
        if stored.instant_version is not None or spec.publish is False:
            return
        if not self._may_begin(job.tenant, spec, outcome):
            return
        number = self._records.jobs.reserve_instant(
            job, adapters.next_number(job.tenant, spec.adapter)
        )
        version = self._store_version(job, spec, number, outcome)
        allowed = functools.partial(may_begin, outcome.metrics, spec.publish)
        if adapters.publish(job.tenant, spec.adapter, number, allowed):
            self._records.jobs.instant_is_live(job, version.number)
            seconds = time.monotonic() - self._claimed_at
            log.info("job %s: instant version %d is live after %.1f s", job.job, number, seconds)

    def _may_begin(self, tenant: str, spec: JobSpec, outcome: Outcome) -> bool:
        """Whether the gate lets it live, and the adapter has room for this and the full version."""
        adapters, jobs = self._records.adapters, self._records.jobs
        try:
            found = adapters.get(tenant, spec.adapter)
        except NotFound:
            found = Adapter(spec.adapter, None, ())
        live = next((v for v in found.versions if v.number == found.live), None)
        room = jobs.bounds.versions - len(found.versions) - jobs.open_for(tenant, spec.adapter)
        return room > 0 and may_begin(outcome.metrics, spec.publish, live)

    @patiently
    def finish(self, job: FitJob, outcome: Outcome) -> None:
        """Stores and publishes a version, and ends the job."""
        if not self.renew(job):
            raise LeaseLost
        stored = self._job(job)
        spec = stored.spec
        number = self._records.jobs.reserve_version(
            job, self._records.adapters.next_number(job.tenant, spec.adapter)
        )
        version = self._store_version(job, spec, number, outcome)
        published = self._publish(version, spec.publish, stored.instant_version)
        self._end(job, "succeeded", metrics=summary(version.metrics), published=published)
        log.info("job %s: %s version %d", job.job, spec.adapter, number)

    def _store_version(self, job: FitJob, spec: JobSpec, number: int, outcome: Outcome) -> Version:
        manifest = self._manifest(job, spec.adapter, number, spec.dataset, outcome)
        data = encode_artifact(Artifact(manifest, outcome.weights, outcome.head))
        decode_artifact(data)  # by the reader's own rules, before anybody is told of it
        return self._records.adapters.add(manifest, data)

    @patiently
    def fail(self, job: FitJob, reason: str) -> None:
        """Ends the job with a reason that its owner reads."""
        log.warning("job %s failed: %s", job.job, reason)
        self._end(job, "failed", error=reason)

    @patiently
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
        clip, weights = self._clip, outcome.weights
        info = {
            "job": job.job,
            "kind": outcome.kind,
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
            image_first=weights.image.first,
            text_first=weights.text.first,
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

    def _publish(self, version: Version, publish: Publish, instant: int | None) -> bool:
        if publish is False:
            return False

        def allowed(live: Version | None) -> bool:
            if live is not None and live.number == instant:  # the same job's, on the same photos
                return not_worse_than_instant(version.metrics)
            return publish is True or not_worse(version.metrics, live)

        return self._records.adapters.publish(
            version.tenant, version.adapter, version.number, allowed
        )


def _digest(listed: list[Listed]) -> str:
    """SHA-256 of all photos' labels and digests, in their order."""
    digest = hashlib.sha256()
    for one in listed:
        digest.update(f"{one.image.label}\0".encode() + bytes.fromhex(one.image.digest))
    return digest.hexdigest()


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
        records,
        clip,
        image_limits(settings),
        settings.min_images,
        settings.fit_seconds,
        settings.fit_bytes,
    )
    training_worker.run(broker_of(settings), clip, job_store, stop)
    tracing.flush()


def _stop_with(parent: int, stop: threading.Event) -> None:
    """A parent that was killed cannot stop its children."""
    while os.getppid() == parent:
        time.sleep(1.0)
    stop.set()
