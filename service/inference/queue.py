"""Rows that wait for the device, and the fair order in which it takes them."""

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adapters.pixels import Pixels
from service.errors import TooMany

Feature = NDArray[np.float32]  # [e], unit

_RETRY_SECONDS = 1  # a full queue of 1,024 rows is a second or two of work
_PROMPT = 1 / 16  # a prompt's work in pictures at most: 12 tokens against about 200


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
        """The row's share of a batch, in pictures."""
        return _PROMPT if isinstance(self.content, str) else 1.0


class FairQueue:
    """A bounded queue that serves tenants in turn, so that none delays another's rows."""

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
