"""Threads for work whose length a client chooses, shared fairly between tenants."""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from service.errors import TooMany

P = ParamSpec("P")
T = TypeVar("T")


class FairThreads:
    """A bounded number of threads, of which one tenant gets at most half.

    Tenants take turns. A thread is free again only when its work has ended: work whose caller has
    gone still runs and still counts.
    """

    def __init__(self, threads: int, name: str, waiting: int | None = None) -> None:
        """Starts no thread yet.

        Args:
            threads: how many run at once, of all tenants.
            name: the start of the threads' names.
            waiting: how many calls of one tenant may wait; None for any number.
        """
        self._pool = ThreadPoolExecutor(threads, name)
        self._free, self._share, self._most_waiting = threads, max(1, threads // 2), waiting
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def submit(
        self, tenant: str, work: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> "Future[T]":
        """Runs work as soon as it is the tenant's turn.

        Args:
            tenant: whose turn it takes.
            work: what to run.
            args: its arguments.
            options: its named arguments.

        Returns:
            A future. Cancelled before its turn, the work does not run.

        Raises:
            TooMany: too much of this tenant's work is waiting already.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    _settle(future, lambda: work(*args, **options))
            finally:
                self._ended(tenant)

        with self._lock:
            queue = self._waiting.setdefault(tenant, deque())
            if self._most_waiting is not None and len(queue) >= self._most_waiting:
                raise TooMany(f"{len(queue)} requests of this tenant are waiting already", 2)
            queue.append(run)
            self._start()
        return future

    def _ended(self, tenant: str) -> None:
        with self._lock:
            self._free += 1
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]
            self._start()

    def _start(self) -> None:
        """Starts what may run now; under the lock."""
        while self._free:
            tenant = next((t for t in self._waiting if self._running[t] < self._share), None)
            if tenant is None:
                return
            queue = self._waiting[tenant]
            run = queue.popleft()
            self._waiting.move_to_end(tenant)
            if not queue:
                del self._waiting[tenant]
            self._free -= 1
            self._running[tenant] += 1
            self._pool.submit(run)


def _settle(future: "Future[Any]", work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
