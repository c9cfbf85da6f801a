"""The thread that owns the device.

Rows of all tenants wait in one fair queue, which fills while the device works; each batch takes
what waits, a row of each tenant in turn. A row that breaks the batch fails alone; rows that nobody
waits for any more leave the queue.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from service import metrics
from service.errors import Unavailable
from service.inference.admission import Admission, AdmissionGate
from service.inference.protocol import Backend, Features
from service.inference.queue import FairQueue, Row

log = logging.getLogger(__name__)


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
        self.gate = AdmissionGate(max_queue_seconds)
        self.queue = FairQueue(max_queued_rows)
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self.stopping = False
        self._failing = False  # the model could not run when it was tried last
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)

    def start(self) -> None:
        """Starts the device thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what was accepted, then ends the thread."""
        with self._wake:
            self.stopping = True
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
            self.queue.put(rows)
            metrics.QUEUED_ROWS.set(len(self.queue))
            self._wake.notify()

    def withdraw(self, rows: Sequence[Row]) -> None:
        """Takes back rows that nobody waits for any more; those in a batch already run on."""
        for row in rows:
            row.future.cancel()
        with self._wake:
            self.queue.withdraw(rows)
            metrics.QUEUED_ROWS.set(len(self.queue))

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
        return self.call(self._ping)

    def admitted(self, tenant: str) -> AbstractContextManager[Admission]:
        """Counts a request as under way; raises TooMany as `check_wait` does."""
        return self.gate.admitted(tenant)

    def check_wait(self, tenant: str) -> None:
        """Raises TooMany if a new picture of this tenant would wait too long."""
        self.gate.check_wait(tenant)

    def _ping(self) -> None:
        self._backend.ping()
        if self._failing:  # until the model has run again
            self._backend.check()
            self._failing = False

    def _check_running(self) -> None:
        if self.stopping:
            raise Unavailable("the server is shutting down")

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or len(self.queue) or self.stopping):
                    self._wake.wait()
                calls, rows = list(self._calls), self.queue.take(self._max_batch)
                self._calls.clear()
                metrics.QUEUED_ROWS.set(len(self.queue))
                if not calls and not rows and self.stopping and not len(self.queue):
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
                rows[0].future.set_exception(self._reason(error))
                return
            for row in rows:
                self._run([row], compute)
            return
        self._failing = False
        metrics.BATCH_ROWS.observe(len(rows))
        seconds = time.monotonic() - started
        metrics.BATCH_SECONDS.observe(seconds)
        if rows[0].work == 1.0:
            self.gate.observe(seconds / len(rows))
        for row, feature in zip(rows, features, strict=True):
            row.future.set_result(feature)

    def _reason(self, error: Exception) -> Exception:
        """Why a single row broke: the device, if the model runs on nothing else; or the row."""
        try:
            self._backend.check()
        except Exception:  # whatever a device that is lost raises
            self._failing = True
            log.exception("the device fails: %s", error)
            return Unavailable("the device fails")
        log.warning("the model could not process one row", exc_info=error)
        return error


def _settle(future: "Future[Any]", function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # handed to whoever waits
        future.set_exception(error)
