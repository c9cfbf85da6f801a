"""What the service refuses, and why. `app.py` alone knows their HTTP status."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from adapters.errors import RMAdapterError

MAX_PROBLEMS = 20  # of one answer: a client may send a million wrong items


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and the field or file that it is wrong with."""

    field: str
    reason: str


class Unauthorized(RMAdapterError):
    """No key, or one that is not known."""


class Forbidden(RMAdapterError):
    """A key that is known, for something else."""


class NotFound(RMAdapterError):
    """It does not exist, or is another tenant's: the same answer for both."""


class Conflict(RMAdapterError):
    """It cannot be done in the present state."""


class Invalid(RMAdapterError):
    """Input that cannot be used; says what and why."""

    def __init__(self, detail: str, *problems: Problem) -> None:
        super().__init__(detail)
        self.problems = problems


class BadUrl(Invalid):
    """A picture's URL that is not fetched, or gave no picture; says why."""


class TooLarge(RMAdapterError):
    """More bytes or files than allowed."""


class TooMany(RMAdapterError):
    """A full queue, too many calls or a quota that is used up; `retry_after` in seconds."""

    def __init__(self, detail: str, retry_after: int, *problems: Problem) -> None:
        super().__init__(detail)
        self.retry_after, self.problems = retry_after, problems


class OverQuota(TooMany):
    """What a tenant may have of something is used up; `wanted` is what was asked for beside it."""

    def __init__(
        self, quota: str, limit: int, used: int, wanted: int = 1, retry_after: int = 3600
    ) -> None:
        use = f"{used:,} of {limit:,} are used, {wanted:,} more were asked for"
        super().__init__(f"the tenant's quota of {quota}: {use}", retry_after, Problem(quota, use))


class Unavailable(RMAdapterError):
    """Redis, the object store or the device does not answer now; `retry_after` in seconds."""

    def __init__(self, detail: str, retry_after: int = 2) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NewerFormat(Unavailable):
    """A newer release wrote what is stored. Waiting callers go on when that release serves them."""


class TooSlow(RMAdapterError):
    """A client that began to send a body, and went on too slowly."""


class ClientGone(RMAdapterError):
    """The client disconnected before its answer."""


def problems_of(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """The first of Pydantic's errors as problems, each with the path of its field."""
    return [
        Problem(_path(error["loc"]), str(error["msg"]).removeprefix("Value error, "))
        for error in islice(errors, MAX_PROBLEMS)
    ]


def _path(location: Sequence[str | int]) -> str:
    """The field's name as a client writes it: ('body', 'params', 0) → params[0]."""
    parts = [part for part in location if part not in ("body", "query", "path", "header")]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".") or "body"
