"""/v1/jobs: fits."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from adapters.classify import check_classes, check_template
from adapters.errors import BadClasses
from service import tracing
from service.errors import Invalid, NotFound, Problem, Unauthorized, Unavailable
from service.http.auth import ComponentsDep, Credentials, Manager, still_granted
from service.http.examples import JOB_EVENTS
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import JobPath
from service.http.schemas import JobIn, JobOut
from service.http.watching import POLL_SECONDS, Watch
from service.records.fit_params import FitParams
from service.records.jobs import Job, JobSpec
from service.wiring import Components
from training.data import check_label_counts
from training.fit import steps_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_SMALL_BATCH = 16  # a step on fewer pictures takes as long
_KEEP_ALIVE_SECONDS = 15.0  # an event at least so often, so that proxies keep the connection
CHECK_SECONDS = 5.0  # between two looks whether a stream's key is still good
_STREAM_SECONDS = 600.0  # then a client opens a new stream


@router.post("", status_code=202)
def create_job(
    components: ComponentsDep,
    tenant: Manager,
    body: JobIn,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> JobOut:
    """Starts a fit. The same `Idempotency-Key` within a day answers with the same job.

    Within seconds, a first version answers: it uses the photos' features and trains nothing
    (`instant_version`). The fit goes on and publishes its own version, unless the first one found
    more of the held-out photos. `fit: "instant"` stops after the first one.
    """
    dataset = components.records.datasets.get(tenant, body.dataset)
    check_label_counts(dataset.labels, components.settings.min_images)
    check_template(body.params.template)
    _check_labels(components, tuple(dataset.labels), body.params.template)
    if (body.params.rank or 1) > components.settings.bank_rank:
        limit = f"at most {components.settings.bank_rank} here"
        raise Invalid("the rank is above the server's", Problem("params.rank", limit))
    _check_cost(components, sum(dataset.labels.values()), body.params)
    params = body.params.model_dump(exclude_defaults=True)
    spec = JobSpec(body.dataset, body.adapter, params, body.publish, body.fit)
    job = components.records.jobs.create(tenant, spec, idempotency_key, tracing.here())
    response.headers["Location"] = f"{components.settings.root_path()}/v1/jobs/{job.id}"
    return JobOut.of(job)


def _check_cost(components: Components, images: int, params: FitParams) -> None:
    """Refuses a fit that would hold a worker for long; one with default settings never is."""

    def cost(asked: FitParams) -> int:
        settings = asked.settings(components.clip)
        return steps_of(images, settings)[1] * max(settings.batch_size, _SMALL_BATCH)

    most = max(components.settings.max_fit_pictures, cost(FitParams()))
    if (wanted := cost(params)) > most:
        reason = f"epochs and batch_size make {wanted:,} pictures to look at, {most:,} are allowed"
        raise Invalid("the fit would take too long", Problem("params", reason))


def _check_labels(components: Components, labels: tuple[str, ...], template: str) -> None:
    try:
        check_classes(labels, components.settings.max_classes)
        components.clip.check_names(labels, template)
    except BadClasses as error:
        problem = Problem("dataset", str(error))
        raise Invalid("the data set's labels cannot be class names", problem) from error


@router.get("")
def list_jobs(
    components: ComponentsDep, tenant: Manager, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[JobOut]:
    """Lists jobs, the oldest first; ended ones for a limited number of days."""
    page = components.records.jobs.page(tenant, limit, cursor)
    return PageOut(items=[JobOut.of(job) for job in page.items], cursor=page.cursor)


@router.get("/{job}")
def get_job(components: ComponentsDep, tenant: Manager, job: JobPath) -> JobOut:
    """Shows one job: its state, progress and, at the end, its metrics or error."""
    return JobOut.of(_reported(components, components.records.jobs.get(tenant, job)))


def _reported(components: Components, job: Job) -> Job:
    """A job with its version's whole report, where that is there still."""
    if job.version is None or job.metrics is None:
        return job
    adapters = components.records.adapters
    try:
        version = adapters.version(job.tenant, job.spec.adapter, job.version)
    except (NotFound, Unavailable):
        return job
    return replace(job, metrics=adapters.with_report(version).metrics)


def get_watch(request: Request) -> Watch:
    """FastAPI's dependency: the application's one watch over jobs."""
    watch = request.app.state.watch
    assert isinstance(watch, Watch)
    return watch


def existing_job(components: ComponentsDep, tenant: Manager, job: JobPath) -> Job:
    """Looked up before the stream starts, so that an unknown job is a 404."""
    return components.records.jobs.get(tenant, job)


async def stream_place(
    first: Annotated[Job, Depends(existing_job)], watch: Annotated[Watch, Depends(get_watch)]
) -> AsyncIterator[None]:
    """One of the tenant's places for streams, until the stream has ended."""
    with watch.stream(first.tenant):
        yield


@router.delete("/{job}", status_code=202)
def cancel_job(components: ComponentsDep, tenant: Manager, job: JobPath) -> JobOut:
    """Cancels a job. A running fit stops at its next step."""
    return JobOut.of(components.records.jobs.cancel(tenant, job))


@router.get("/{job}/events", response_class=EventSourceResponse, responses=JOB_EVENTS)
async def job_events(
    components: ComponentsDep,
    credentials: Credentials,
    first: Annotated[Job, Depends(existing_job)],
    watch: Annotated[Watch, Depends(get_watch)],
    place: Annotated[None, Depends(stream_place)],
) -> AsyncIterator[ServerSentEvent]:
    """Streams the job as server-sent events: `progress` whenever it changed, then `end`.

    The stream ends after ten minutes, when its API key is revoked, or when the server stops. A new
    request continues it.
    """
    began, checked, sent, job, shown = time.monotonic(), time.monotonic(), 0.0, first, None
    while True:
        out, clock = JobOut.of(job), time.monotonic()
        if out != shown or clock - sent >= _KEEP_ALIVE_SECONDS:
            shown, sent = out, clock
            yield ServerSentEvent(data=out, event="end" if job.ended else "progress")
        if job.ended or components.draining.is_set() or clock - began > _STREAM_SECONDS:
            return
        await asyncio.sleep(POLL_SECONDS)
        try:
            if clock - checked > CHECK_SECONDS:
                checked = clock
                await run_in_threadpool(still_granted, components, credentials)
            job = await watch.state(first.tenant, first.id)
        except (NotFound, Unauthorized):  # deleted, or its tenant, or the key
            return
        except Unavailable:
            continue
