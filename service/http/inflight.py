"""Bytes of request bodies that are held at once: one budget, and a share of it for each tenant."""

import threading
from collections import Counter

from service.errors import TooMany, Unavailable
from service.metrics import BODY_BYTES

_RETRY_SECONDS = 2
FREE = 2**20  # bytes of a body that are never counted: most requests are smaller


class InFlight:
    """Counts the bytes of bodies from their arrival to the end of their requests. Thread-safe."""

    def __init__(self, most: int) -> None:
        """Sets the budget.

        Args:
            most: bytes of all bodies at once; one tenant may have half of them.
        """
        self._most, self._share = most, most // 2
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, tenant: str, size: int) -> None:
        """Counts more bytes of a body.

        Args:
            tenant: whose request it is.
            size: bytes that have arrived, or are announced.

        Raises:
            TooMany: the tenant's share is used up.
            Unavailable: the whole budget is used up.
        """
        with self._lock:
            if self._held[tenant] + size > self._share:
                raise TooMany("this tenant's other requests are still being read", _RETRY_SECONDS)
            if self._held.total() + size > self._most:
                raise Unavailable("too many large requests are being read", _RETRY_SECONDS)
            self._held[tenant] += size
            BODY_BYTES.inc(size)

    def give_back(self, tenant: str, size: int) -> None:
        """Ends counting a request's bytes."""
        with self._lock:
            self._held[tenant] -= size
            BODY_BYTES.dec(size)
            if self._held[tenant] <= 0:
                del self._held[tenant]
