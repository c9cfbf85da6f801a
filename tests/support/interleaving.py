"""Runs several calls at once, one store call at a time, in an order that a test chooses.

Each call runs in a thread of its own, which stops before every call of a store (`at_store_call`)
and goes on when it is told to. So a test, or Hypothesis, decides who goes next, and which calls of
a store fail: before they are done, after they are done, or with the death of their process.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.errors import Unavailable

Step = Literal["go", "refuse", "lose", "kill"]


class Killed(BaseException):
    """The process of a call has died: nothing of it runs any more."""


@dataclass
class Call:
    """One call, its result or its error."""

    name: str
    work: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False
    dead: bool = False
    step: Step = "go"
    waits: threading.Event = field(default_factory=threading.Event)
    goes: threading.Event = field(default_factory=threading.Event)

    @property
    def acknowledged(self) -> bool:
        """Whether it ended without an error."""
        return self.done and self.error is None


_here = threading.local()


def at_store_call(run: Callable[[], Any]) -> Any:
    """Every call of a store goes through this; outside of `interleave` it does nothing."""
    call: Call | None = getattr(_here, "call", None)
    if call is None:
        return run()
    if call.dead:
        raise Killed
    call.waits.set()
    call.goes.wait()
    call.goes.clear()
    if call.step == "kill":
        call.dead = True
        raise Killed
    if call.step == "refuse":
        raise Unavailable("the store is away")
    answer = run()
    if call.step == "lose":
        raise Unavailable("the answer was lost")
    return answer


def interleave(
    calls: Sequence[Call], choose: Callable[[int], int], fault: Callable[[], Step]
) -> int:
    """Runs calls to their ends.

    Args:
        calls: what to run at once.
        choose: of so many calls that wait, which one goes on.
        fault: how its next store call goes.

    Returns:
        How many store calls were made.
    """
    threads = [threading.Thread(target=_run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    steps = 0
    while waiting := _waiting(calls):
        call = waiting[choose(len(waiting))]
        call.step = fault()
        call.waits.clear()
        call.goes.set()
        steps += 1
        assert steps < 20_000, f"no end: {[c.name for c in calls if not c.done]}"
    for thread in threads:
        thread.join()
    return steps


def _waiting(calls: Sequence[Call]) -> list[Call]:
    """Those that have not ended, once each of them stands before a store call."""
    for call in calls:
        call.waits.wait()
    return [call for call in calls if not call.done]


def _run(call: Call) -> None:
    _here.call = call
    try:
        call.result = call.work()
    except BaseException as error:
        call.error = error
    finally:
        call.done = True
        call.waits.set()
