"""Streams of a job's progress: bounded for each tenant, with one poller for each job."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool

from service.errors import TooMany
from service.records.jobs import Job

POLL_SECONDS = 0.25  # a fit reports five times a second
_MOST_STREAMS = 20  # of one tenant on one server
_KEPT = 1000  # jobs whose last state is remembered


class Watch:
    """The last states of jobs that are watched; runs on one event loop."""

    def __init__(self, get: Callable[[str, str], Job]) -> None:
        """Watches nothing yet.

        Args:
            get: reads a job's record, by its tenant and its id.
        """
        self._get = get
        self._streams: Counter[str] = Counter()
        self._read: dict[tuple[str, str], tuple[float, asyncio.Task[Job]]] = {}

    @contextmanager
    def stream(self, tenant: str) -> Iterator[None]:
        """A context in which one more stream of this tenant is open.

        Raises:
            TooMany: it has as many as allowed.
        """
        if self._streams[tenant] >= _MOST_STREAMS:
            raise TooMany(f"{_MOST_STREAMS} streams of this tenant are open already", 5)
        self._streams[tenant] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]

    async def state(self, tenant: str, job: str) -> Job:
        """A job, read now or a moment ago: all who ask at the same time share one read.

        Raises:
            NotFound: the job is gone.
            Unavailable: Redis does not answer.
        """
        key, clock = (tenant, job), time.monotonic()
        at, task = self._read.get(key, (0.0, None))
        if task is None or clock - at >= POLL_SECONDS:
            task = asyncio.create_task(run_in_threadpool(self._get, tenant, job))
            self._read[key] = clock, task
            while len(self._read) > _KEPT:
                del self._read[next(iter(self._read))]
        return await asyncio.shield(task)
