"""Bounded caches: recent entries, and what Redis last said, for the time that it is away."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from adapters.errors import RMAdapterError
from service.errors import Unavailable

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class BoundedCache(OrderedDict[K, V]):
    """At most `limit` entries; the one that was kept longest ago makes room."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def keep(self, key: K, value: V) -> None:
        """Sets an entry, or renews it."""
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._limit:
            self.popitem(last=False)


class LastKnown(Generic[T]):
    """Asks Redis each time; falls back to memory only when it does not answer. Thread-safe."""

    def __init__(self, limit: int = 100_000) -> None:
        self._known: BoundedCache[Hashable, T] = BoundedCache(limit)
        self._lock = threading.Lock()

    def __call__(self, name: Hashable, ask: Callable[[], T]) -> T:
        """The answer, remembered. A refusal (not found, not authorised) is forgotten at once."""
        try:
            answer = ask()
        except Unavailable:
            with self._lock:
                if name in self._known:
                    return self._known[name]
            raise
        except RMAdapterError:
            with self._lock:
                self._known.pop(name, None)
            raise
        with self._lock:
            self._known.keep(name, answer)
        return answer

    def last(self, name: Hashable) -> T | None:
        """What is remembered, unasked: it may have changed since."""
        with self._lock:
            return self._known.get(name)
