"""The thread that owns the device, and the queue before it.

Rows of all tenants wait in one fair queue, which fills while the device works; each batch takes
what waits, a row of each tenant in turn. A row that breaks the batch fails alone; rows that nobody
waits for any more leave the queue.
"""

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.pixels import Pixels
from service import metrics
from service.backends import Backend, Features
from service.errors import TooMany, Unavailable

Feature = NDArray[np.float32]  # [e], unit

_RETRY_SECONDS = 1  # a full queue of 1,024 rows is a second or two of work
_PROMPT = 1 / 16  # of a picture's work at most: a dozen tokens where that has two hundred
_LATEST = 0.2  # weight of the latest batch in the time that a picture takes


@dataclass(slots=True)
class Row:
    """One picture or prompt for the device, on the adapter in `slot`."""

    tenant: str
    slot: int
    content: Pixels | str
    future: "Future[Feature]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def work(self) -> float:
        """What it takes of a batch, in pictures."""
        return _PROMPT if isinstance(self.content, str) else 1.0


class FairQueue:
    """Bounded; takes from each tenant in turn, so that one's flood does not delay another's row."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._rows: OrderedDict[str, deque[Row]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def put(self, rows: Sequence[Row]) -> None:
        """All of the rows or none. Raises TooMany when they do not fit."""
        if self._size + len(rows) > self._limit:
            raise TooMany(f"{self._size} rows wait for the device already", _RETRY_SECONDS)
        for row in rows:
            self._rows.setdefault(row.tenant, deque()).append(row)
        self._size += len(rows)

    def withdraw(self, rows: Sequence[Row]) -> None:
        """Gives up the places of those of the rows that still wait."""
        gone = set(map(id, rows))
        for tenant in {row.tenant for row in rows} & self._rows.keys():
            kept = deque(row for row in self._rows[tenant] if id(row) not in gone)
            self._size -= len(self._rows[tenant]) - len(kept)
            self._rows[tenant] = kept
            if not kept:
                del self._rows[tenant]

    def take(self, most: float) -> list[Row]:
        """Rows worth up to `most` pictures, one of each tenant in turn; none that was given up."""
        taken: list[Row] = []
        while self._rows and most >= 1:
            tenant, rows = self._rows.popitem(last=False)
            row = rows.popleft()
            self._size -= 1
            if rows:
                self._rows[tenant] = rows
            if row.future.set_running_or_notify_cancel():
                taken.append(row)
                most -= row.work
        return taken


class Admission:
    """A request's place among those under way: one picture until it is known how many it holds."""

    def __init__(self, engine: "Engine", tenant: str) -> None:
        self._engine, self._tenant, self._pictures = engine, tenant, 1

    def hold(self, pictures: int) -> None:
        """So many pictures from now on."""
        self._engine._count(self._tenant, pictures - self._pictures)
        self._pictures = pictures


class Engine:
    """Runs a backend on one thread. Thread-safe."""

    def __init__(
        self,
        backend: Backend,
        max_batch: int,
        max_queued_rows: int,
        max_queue_seconds: float = math.inf,
    ) -> None:
        self._backend, self._max_batch = backend, max_batch
        self._max_queue_seconds = max_queue_seconds
        self._picture_seconds = 0.0  # of late
        self._under_way: Counter[str] = Counter()  # pictures admitted and not answered yet
        self._queue = FairQueue(max_queued_rows)
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finishes what was accepted, then ends the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, rows: Sequence[Row]) -> None:
        """Queues rows; each row's future gets its feature.

        Raises:
            TooMany: the queue is full.
            Unavailable: the service is shutting down.
        """
        with self._wake:
            self._check_running()
            self._queue.put(rows)
            metrics.QUEUED_ROWS.set(len(self._queue))
            self._wake.notify()

    def withdraw(self, rows: Sequence[Row]) -> None:
        """Takes back rows that nobody waits for any more; those in a batch already run on."""
        for row in rows:
            row.future.cancel()
        with self._wake:
            self._queue.withdraw(rows)
            metrics.QUEUED_ROWS.set(len(self._queue))

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Runs a function on the device's thread, between two batches."""
        future: Future[Any] = Future()
        with self._wake:
            self._check_running()
            self._calls.append((function, future))
            self._wake.notify()
        return future

    def write(self, slot: int, weights: Any) -> "Future[Any]":
        """Puts an adapter into a slot, between two batches."""
        return self.call(lambda: self._backend.write(slot, weights))

    def ping(self) -> "Future[Any]":
        """Done when the thread and the device have answered."""
        return self.call(self._backend.ping)

    @contextmanager
    def admitted(self, tenant: str) -> "Iterator[Admission]":
        """Counts a request as under way, from before its body is read to its answer.

        Raises TooMany as `check_wait` does.
        """
        with self._wake:
            self.check_wait(tenant)
            self._count(tenant, 1)
        admission = Admission(self, tenant)
        try:
            yield admission
        finally:
            admission.hold(0)

    def _count(self, tenant: str, pictures: int) -> None:
        with self._wake:
            self._under_way[tenant] += pictures
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    def check_wait(self, tenant: str) -> None:
        """Raises TooMany if a new picture of this tenant would wait for longer than
        `max_queue_seconds`: what is its own goes first, and as much of each other tenant's.
        """
        with self._wake:
            mine = self._under_way[tenant]
            others = (n for name, n in self._under_way.items() if name != tenant)
            wait = (mine + sum(min(n, mine + 1) for n in others)) * self._picture_seconds
        if wait > self._max_queue_seconds:
            raise TooMany(f"the wait is {wait:.1f} s already", math.ceil(wait))

    def _check_running(self) -> None:
        if self._stopping:
            raise Unavailable("the server is shutting down")

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or len(self._queue) or self._stopping):
                    self._wake.wait()
                calls, rows = list(self._calls), self._queue.take(self._max_batch)
                self._calls.clear()
                metrics.QUEUED_ROWS.set(len(self._queue))
                if not calls and not rows and self._stopping and not len(self._queue):
                    return
            for function, future in calls:
                _settle(future, function)
            self._run([row for row in rows if isinstance(row.content, str)], self._backend.texts)
            self._run(
                [row for row in rows if not isinstance(row.content, str)], self._backend.images
            )

    def _run(self, rows: list[Row], compute: Callable[[Any, list[int]], Features]) -> None:
        if not rows:
            return
        started = time.monotonic()
        for row in rows:
            metrics.QUEUE_SECONDS.observe(started - row.since)
        try:
            features = compute([row.content for row in rows], [row.slot for row in rows])
        except Exception as error:  # any: which row it is, only single runs can tell
            if len(rows) == 1:
                rows[0].future.set_exception(error)
                return
            for row in rows:
                self._run([row], compute)
            return
        metrics.BATCH_ROWS.observe(len(rows))
        seconds = time.monotonic() - started
        metrics.BATCH_SECONDS.observe(seconds)
        if rows[0].work == 1.0:
            self._picture_seconds += _LATEST * (seconds / len(rows) - self._picture_seconds)
        for row, feature in zip(rows, features, strict=True):
            row.future.set_result(feature)


def _settle(future: "Future[Any]", function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # handed to whoever waits
        future.set_exception(error)
