"""Admits requests, and refuses those that would wait too long for the device."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import TooMany

_LATEST = 0.2  # weight of the latest batch in the time that a picture takes


class Admission:
    """A request's place among those under way: one picture until it is known how many it holds."""

    def __init__(self, gate: "AdmissionGate", tenant: str) -> None:
        self._gate, self._tenant, self._pictures = gate, tenant, 1

    def hold(self, pictures: int) -> None:
        """The request holds this number of pictures from now on."""
        self._gate.count(self._tenant, pictures - self._pictures)
        self._pictures = pictures


class AdmissionGate:
    """Counts each tenant's pictures under way and refuses requests that would wait too long.

    Thread-safe.

    Args:
        max_queue_seconds: the longest expected wait of an admitted request.
    """

    def __init__(self, max_queue_seconds: float = math.inf) -> None:
        self._max_queue_seconds = max_queue_seconds
        self.picture_seconds = 0.0  # a moving average
        self.under_way: Counter[str] = Counter()  # pictures admitted and not answered yet
        self._lock = threading.RLock()

    @contextmanager
    def admitted(self, tenant: str) -> Iterator[Admission]:
        """Counts a request as under way, from before its body is read to its answer.

        Raises:
            TooMany: as `check_wait` does.
        """
        with self._lock:
            self.check_wait(tenant)
            self.count(tenant, 1)
        admission = Admission(self, tenant)
        try:
            yield admission
        finally:
            admission.hold(0)

    def count(self, tenant: str, pictures: int) -> None:
        """Adds to the pictures of a tenant that are under way; a negative number takes away."""
        with self._lock:
            self.under_way[tenant] += pictures
            if not self.under_way[tenant]:
                del self.under_way[tenant]

    def check_wait(self, tenant: str) -> None:
        """Checks how long a new picture of this tenant would wait.

        Before it come this tenant's own pictures, and at most as many of each other tenant.

        Raises:
            TooMany: the wait would be longer than `max_queue_seconds`.
        """
        with self._lock:
            mine = self.under_way[tenant]
            others = (n for name, n in self.under_way.items() if name != tenant)
            wait = (mine + sum(min(n, mine + 1) for n in others)) * self.picture_seconds
        if wait > self._max_queue_seconds:
            raise TooMany(f"the wait is {wait:.1f} s already", math.ceil(wait))

    def observe(self, picture_seconds: float) -> None:
        """Learns from a batch how long a picture takes."""
        with self._lock:
            self.picture_seconds += _LATEST * (picture_seconds - self.picture_seconds)
