"""The thread that owns the device.

Rows of all tenants wait in one fair queue while the device works. Each batch takes the waiting
rows, one of each tenant in turn. A row that breaks a batch fails alone. Rows of cancelled requests
leave the queue.

Where memory runs out, the batch is halved, and batches stay small for a while. A device that does
not come back is lost: all who wait are told so, nothing more is taken, and the process should end.
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

from adapters.faults import is_lasting, is_out_of_memory
from service import metrics
from service.errors import Unavailable
from service.inference.admission import Admission, AdmissionGate
from service.inference.protocol import Backend, Features
from service.inference.queue import FairQueue, Row

log = logging.getLogger(__name__)

_GROW_AFTER = 100  # batches that fit, before a size that did not is tried again
_LOST_AFTER = 30.0  # seconds in which the model never ran
_LOST = "the device is lost"


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
        self._batch, self._fitting = max_batch, 0  # the size now, and batches that fit since
        self.gate = AdmissionGate(max_queue_seconds)
        self.queue = FairQueue(max_queued_rows)
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self.stopping = False
        self._failing_since: float | None = None  # the model could not run when tried last
        self.lost = threading.Event()
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
        try:
            self._backend.ping()
            if self._failing_since is not None:  # until the model has run again
                self._backend.check()
        except Exception as error:
            self._note_failure(error)
            raise
        self._failing_since = None

    def _check_running(self) -> None:
        if self.lost.is_set():
            raise Unavailable(_LOST)
        if self.stopping:
            raise Unavailable("the server is shutting down")

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or len(self.queue) or self.stopping):
                    self._wake.wait()
                calls, rows = list(self._calls), self.queue.take(self._batch)
                self._calls.clear()
                metrics.QUEUED_ROWS.set(len(self.queue))
                if not calls and not rows and self.stopping and not len(self.queue):
                    return
            for function, future in calls:
                self._settle(future, function)
            self._run([row for row in rows if isinstance(row.content, str)], self._backend.texts)
            self._run(
                [row for row in rows if not isinstance(row.content, str)], self._backend.images
            )

    def _run(self, rows: list[Row], compute: Callable[[Any, list[int]], Features]) -> None:
        if not rows:
            return
        for row in rows:
            metrics.QUEUE_SECONDS.observe(time.monotonic() - row.since)
        self._compute(rows, compute)

    def _compute(self, rows: list[Row], compute: Callable[[Any, list[int]], Features]) -> None:
        if self.lost.is_set():
            _refuse(rows, _LOST)
            return
        started = time.monotonic()
        try:
            features = compute([row.content for row in rows], [row.slot for row in rows])
        except Exception as error:  # of any kind; only single runs show which row failed
            self._recover(rows, compute, error)
            return
        self._failing_since = None
        self._grow(len(rows))
        metrics.BATCH_ROWS.observe(len(rows))
        seconds = time.monotonic() - started
        metrics.BATCH_SECONDS.observe(seconds)
        if rows[0].work == 1.0:
            self.gate.observe(seconds / len(rows))
        for row, feature in zip(rows, features, strict=True):
            row.future.set_result(feature)

    def _recover(
        self,
        rows: list[Row],
        compute: Callable[[Any, list[int]], Features],
        error: Exception,
    ) -> None:
        """Runs again what may run, and answers the other rows."""
        if is_lasting(error):
            self._note_failure(error)
            _refuse(rows, _LOST)
        elif is_out_of_memory(error):
            self._halve(rows, compute, error)
        elif len(rows) == 1:
            rows[0].future.set_exception(self._reason(error))
        else:
            for row in rows:
                self._compute([row], compute)

    def _halve(
        self,
        rows: list[Row],
        compute: Callable[[Any, list[int]], Features],
        error: Exception,
    ) -> None:
        self._backend.free_memory()
        if len(rows) == 1:
            log.error("the device has no memory for a single row: %s", error)
            _refuse(rows, "the device's memory is full")
            return
        half = len(rows) // 2
        self._batch, self._fitting = min(self._batch, max(1, half)), 0
        log.warning("out of memory with %d rows; batches of %d now", len(rows), self._batch)
        self._compute(rows[:half], compute)
        self._compute(rows[half:], compute)

    def _grow(self, rows: int) -> None:
        """After a while of batches that fit, one twice as large is tried."""
        if self._batch == self._max_batch or rows < self._batch:
            return
        self._fitting += 1
        if self._fitting >= _GROW_AFTER:
            self._batch, self._fitting = min(self._max_batch, 2 * self._batch), 0

    def _reason(self, error: Exception) -> Exception:
        """The cause of a row's failure: the device if even a blank picture fails, else the row."""
        try:
            self._backend.check()
        except Exception as broken:  # whatever a device that is lost raises
            log.exception("the device fails: %s", error)
            self._note_failure(broken)
            return Unavailable("the device fails")
        log.warning("the model could not process one row", exc_info=error)
        return error

    def _note_failure(self, error: Exception) -> None:
        """The model did not run; an error that lasts, or that went on for long, ends the engine."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if is_lasting(error) or now - self._failing_since > _LOST_AFTER:
            log.critical("the device is lost, and the process should end: %s", error)
            self.lost.set()

    def _settle(self, future: "Future[Any]", function: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # handed to whoever waits
            if is_lasting(error):
                self._note_failure(error)
            future.set_exception(error)


def _refuse(rows: list[Row], reason: str) -> None:
    for row in rows:
        row.future.set_exception(Unavailable(reason))
