"""Rate limits of a tenant: GCRA in Redis, in one call, shared by all API servers.

Each tenant and kind of call has one number: the time at which its next call is due at an even pace
(`tat`, the theoretical arrival time). A burst may run ahead of it. The clock is Redis's own, so
servers need not agree. A number further ahead than a burst dates from before that clock was set
back, and is ignored.

Each server keeps the same numbers for the calls that it allowed itself. They refuse most of a flood
without a call to Redis. While Redis is away, or slow under that flood, they alone are the limit.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from service.errors import TooMany, Unavailable
from service.records.store import RecordStore, tenant_redis_key

log = logging.getLogger(__name__)

_AWAY_SECONDS = 5.0  # pause before Redis is asked again after it did not answer
_KEPT = 100_000  # tenants and kinds of call that a server remembers: the latest ones
# ARGV: microseconds between two calls, calls of a burst. Returns microseconds to wait; 0: allowed.
_TAKE = """
local clock = redis.call('time')
local now = clock[1] * 1000000 + clock[2]
local step, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = math.max(tonumber(redis.call('get', KEYS[1]) or now), now)
if tat > now + burst * step + 1 then tat = now end
local wait = tat - now - (burst - 1) * step
if wait > 0 then return math.ceil(wait) end
local life = math.ceil((tat + step - now) / 1000)
redis.call('set', KEYS[1], string.format('%.3f', tat + step), 'px', life)
return 0
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second, and how many at once after a pause; 0 a second: no limit."""

    per_second: float
    burst: int


class Rates:
    """Counts calls. `store` should give up within a fraction of a second: nobody waits for this."""

    def __init__(self, store: RecordStore, rates: dict[str, Rate]) -> None:
        self.store, self._rates = store, rates
        self._own = _Own()
        self._away_until = 0.0
        self._lock = threading.Lock()

    def take(self, tenant: str, kind: str) -> None:
        """Counts one call of a kind. While Redis is away each server counts its own calls alone.

        Raises:
            TooMany: too many calls; after its `retry_after` the next one is let through.
        """
        rate = self._rates[kind]
        if not rate.per_second:
            return
        name = tenant_redis_key(tenant, "rate", kind)
        wait = self._own.take(name, rate)
        if not wait:
            wait = self._shared(name, rate)
            if wait:
                self._own.give_back(name, rate)
        if wait:
            raise TooMany(f"more than {rate.per_second:g} {kind} calls a second", math.ceil(wait))

    def _shared(self, name: str, rate: Rate) -> float:
        """Seconds to wait by the count of all servers; 0 if allowed or Redis is away."""
        if time.monotonic() < self._away_until:
            return 0.0
        try:
            step = 1e6 / rate.per_second
            return float(self.store.eval(_TAKE, 1, name, step, max(1, rate.burst))) / 1e6
        except Unavailable:
            self._pause()
            return 0.0

    def _pause(self) -> None:
        with self._lock:
            if time.monotonic() >= self._away_until:
                log.warning(
                    "Redis does not answer; for %g s rates are by this server alone", _AWAY_SECONDS
                )
            self._away_until = time.monotonic() + _AWAY_SECONDS


class _Own:
    """GCRA over the calls of this server, by its own clock."""

    def __init__(self) -> None:
        self._tat: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str, rate: Rate) -> float:
        """Seconds to wait; 0: counted."""
        now = time.monotonic()
        with self._lock:
            tat = max(self._tat.get(name, now), now)
            wait = tat - now - (max(1, rate.burst) - 1) / rate.per_second
            if wait > 0:
                return wait
            self._tat[name] = tat + 1 / rate.per_second
            self._tat.move_to_end(name)
            if len(self._tat) > _KEPT:
                self._tat.popitem(last=False)
        return 0.0

    def give_back(self, name: str, rate: Rate) -> None:
        with self._lock:
            if name in self._tat:
                self._tat[name] -= 1 / rate.per_second
