"""The connection to Redis, the names of its keys, and pages of its lists.

Only this file knows Redis's errors.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import redis
from redis.client import Pipeline
from redis.connection import AbstractConnection

from service import metrics
from service.errors import Invalid, NewerFormat, NotFound, Problem, Unavailable
from service.records.formats import check_format
from service.records.tenant_step import TENANT_STEP

T = TypeVar("T")

PREFIX = "rmadapter"
_PAUSE_SECONDS = 1.0  # between two attempts to reach a Redis that hangs
_TIMEOUT = 5.0  # seconds; a record is read in under a millisecond
# Errors of a Redis that answers but cannot serve now: its memory is full, it became a replica, or a
# failover runs. redis-py has classes for some and cuts off the first word of their messages.
_REFUSALS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,  # MOVED too
)
_REFUSED = ("MISCONF", "NOREPLICAS", "LOADING", "OOM ", "READONLY", "CLUSTERDOWN", "MASTERDOWN")
_PART = re.compile(r"[A-Za-z0-9._-]{0,200}")  # ids, names of adapters and of kinds
_PAGE = 1000  # items per page when a whole list is read
_WRITTEN_SECONDS = 60  # how long the key of `check_writes` is kept


_FULL_TOO = "#!lua flags=allow-oom"  # a step that frees memory works when there is none left
_NO_TENANT = "NOTENANT"


class Breaker:
    """A circuit breaker: while Redis hangs, one command waits for it and all others fail at once.

    It opens when an answer did not come in time. From then on one command every `_PAUSE_SECONDS` is
    let through to see whether Redis answers again.
    """

    def __init__(self) -> None:
        self._lock, self._open_until = threading.Lock(), 0.0

    def check(self) -> None:
        """Raises Unavailable while it is open, except for the one command that is let through."""
        with self._lock:
            if not self._open_until:
                return
            clock = time.monotonic()
            if clock < self._open_until:
                raise Unavailable("Redis does not answer")
            self._open_until = clock + _PAUSE_SECONDS  # this command is let through

    def timed_out(self) -> None:
        """Opens it."""
        with self._lock:
            self._open_until = time.monotonic() + _PAUSE_SECONDS

    def answered(self) -> None:
        """Closes it."""
        if self._open_until:
            with self._lock:
                self._open_until = 0.0


class RecordStore(redis.Redis):  # type: ignore[misc]
    """Redis, with its errors translated."""

    breaker = Breaker()  # `connect` sets one that all connections to a Redis share

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Runs one command.

        Raises:
            Unavailable: Redis does not answer, or cannot write now.
        """
        with _translated(self.breaker):
            return super().execute_command(*args, **options)

    def tenant_step(
        self, tenant: str, script: str, keys: Sequence[str], *args: Any, frees: bool = False
    ) -> Any:
        """Runs a script as one step, if the tenant has a record.

        Args:
            tenant: the tenant's id.
            script: Lua, which sees its own KEYS and ARGV, and the functions of `TENANT_STEP`.
            keys: names of Redis keys.
            args: further arguments.
            frees: the step frees memory, and may run when Redis has none left.

        Raises:
            NotFound: the tenant has no record: it was erased. Nothing was written.
            Unavailable: Redis does not answer, or cannot write now.
        """
        whole = (_FULL_TOO if frees else "") + TENANT_STEP + script
        own = tenant_redis_key(tenant)
        every = (TENANT_RECORDS, UNNAMED, DELETING, own, *keys)
        try:
            return self.eval(whole, len(every), *every, tenant, *args)
        except redis.ResponseError as error:
            if not str(error).startswith(_NO_TENANT):
                raise
            raise NotFound(f"there is no tenant {tenant}") from error

    def check_writes(self) -> None:
        """Raises Unavailable unless Redis answers and can write."""
        self.set(redis_key("written"), "1", ex=_WRITTEN_SECONDS)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "RecordPipeline":
        """Commands sent together; in one transaction unless told otherwise."""
        how = (self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made = RecordPipeline(*how)
        made.breaker = self.breaker
        return made


class RecordPipeline(Pipeline):  # type: ignore[misc]
    """Commands of Redis sent together, with its errors translated."""

    breaker = Breaker()

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends the commands and returns their answers.

        Raises:
            Unavailable: Redis does not answer, or cannot write now.
        """
        with _translated(self.breaker):
            answers: list[Any] = super().execute(raise_on_error)
            return answers


@contextmanager
def _translated(breaker: Breaker) -> Iterator[None]:
    breaker.check()
    try:
        yield
        breaker.answered()
    except (redis.ConnectionError, redis.TimeoutError) as error:
        metrics.STORE_ERRORS.labels("redis").inc()
        if isinstance(error, redis.TimeoutError):
            breaker.timed_out()
        raise Unavailable("Redis does not answer") from error
    except redis.RedisError as error:
        breaker.answered()
        if isinstance(error, _REFUSALS) or any(word in str(error) for word in _REFUSED):
            metrics.STORE_ERRORS.labels("redis").inc()
            raise Unavailable("Redis cannot write now") from error
        raise


def connect(url: str, timeout: float = _TIMEOUT, breaker: Breaker | None = None) -> RecordStore:
    """A client whose values are text. It connects at the first command.

    Args:
        url: where Redis is.
        timeout: seconds that one command may take.
        breaker: shared with other clients of the same Redis; None for a breaker of its own.
    """
    store: RecordStore = RecordStore.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        redis_connect_func=refuse_newer,
    )
    store.breaker = breaker or Breaker()
    return store


def refuse_newer(connection: AbstractConnection) -> None:
    """Checks a new connection, so that no command reaches records of a newer format.

    Raises:
        NewerFormat: a newer release wrote the records.
    """
    connection.on_connect()
    connection.send_command("GET", FORMAT_KEY)
    found = connection.read_response()
    try:
        check_format(found.decode() if isinstance(found, bytes) else found, "Redis")
    except NewerFormat:
        connection.disconnect()
        raise


def redis_key(*parts: str) -> str:
    """The name of a Redis key, under this service's prefix."""
    return ":".join((PREFIX, *parts))


FORMAT_KEY = redis_key("format")
TENANT_RECORDS = redis_key("tenant-names")  # a hash: tenant's id → its record
UNNAMED = redis_key("unnamed-files")  # path → the second from which on it is to be deleted
DELETING = redis_key("deleting-files")  # path → the second at which its deletion began


def tenant_redis_key(tenant: str, *parts: str) -> str:
    """The name of a tenant's Redis key. All are under one prefix, so that they can be erased.

    Raises:
        NotFound: a part, which may come from a request's path, is not the name of anything.
    """
    for part in (tenant, *parts):
        if not _PART.fullmatch(part):
            raise NotFound(f"there is no {part[:100]!r}")
    return redis_key("tenant", tenant, *parts)


def new_id(kind: str) -> str:
    """An id that sorts by time: kind_, 13 hex digits of microseconds, 8 random ones."""
    return f"{kind}_{time.time_ns() // 1000:013x}{secrets.token_hex(4)}"


def now() -> str:
    """ISO 8601, UTC, milliseconds."""
    return iso_time(datetime.now(UTC).timestamp())


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC, milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the cursor of the next part; None at the end."""

    items: list[T]
    cursor: str | None


def every(page: Callable[[int, str | None], Page[T]]) -> Iterator[T]:
    """All items of a list, page by page.

    Args:
        page: returns a part of the list, given the largest number of items and the cursor.
    """
    cursor: str | None = None
    while True:
        part = page(_PAGE, cursor)
        yield from part.items
        if (cursor := part.cursor) is None:
            return


def members(store: RecordStore, name: str, limit: int, cursor: str | None) -> Page[str]:
    """A page of a sorted set's members in the set's order, after `cursor`."""
    if cursor is not None and (len(cursor) > 200 or not cursor.isprintable()):
        raise Invalid("the cursor is not one that this list gave", Problem("cursor", "unknown"))
    start = "-" if cursor is None else f"({cursor}"
    found = store.zrangebylex(name, start, "+", start=0, num=limit + 1)
    return Page(found[:limit], found[limit - 1] if len(found) > limit else None)
