"""Waiting for a store that is away."""

import functools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from service.errors import Unavailable

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 600.0  # a store that is away for longer fails the job
_AGAIN_SECONDS = 1.0

P = ParamSpec("P")
R = TypeVar("R")


def patiently(method: Callable[P, R]) -> Callable[P, R]:
    """Waits for a store that is away: a fit is not lost for it. For calls that may be repeated."""

    @functools.wraps(method)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return method(*args, **kwargs)
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s: %s; again in a second", method.__name__, error)
                time.sleep(_AGAIN_SECONDS)

    return patient
