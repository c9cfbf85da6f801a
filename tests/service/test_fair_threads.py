"""Threads are shared fairly: nobody's work holds up another tenant's."""

import threading
from concurrent.futures import wait

import pytest

from service.errors import TooMany
from service.fair_threads import FairThreads


class Gate:
    """Work that runs until it is let go, and counts how much of it runs."""

    def __init__(self) -> None:
        self.open, self.running, self.most = threading.Event(), 0, 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait(30)
        with self._lock:
            self.running -= 1


def test_one_tenant_gets_at_most_half_and_another_goes_on_at_once() -> None:
    threads, flood = FairThreads(4, "test"), Gate()
    futures = [threads.submit("flood", flood) for _ in range(20)]
    assert threads.submit("calm", lambda: 7).result(10) == 7
    flood.open.set()
    wait(futures, 30)
    assert flood.most == 2


def test_work_whose_caller_has_gone_keeps_its_place_until_it_ends() -> None:
    threads, flood = FairThreads(2, "test"), Gate()
    first = threads.submit("flood", flood)
    while not first.running():
        pass
    later = [threads.submit("flood", flood) for _ in range(3)]
    assert not first.cancel()  # it runs
    assert all(future.cancel() for future in later)
    assert flood.running == 1
    flood.open.set()
    assert threads.submit("flood", lambda: 1).result(10) == 1
    assert flood.most == 1  # what was cancelled before its turn never ran


def test_more_waiting_work_than_allowed_is_refused_for_that_tenant_alone() -> None:
    threads, flood = FairThreads(2, "test", waiting=3), Gate()
    futures = [threads.submit("flood", flood) for _ in range(4)]  # one runs, three wait
    with pytest.raises(TooMany, match="waiting already"):
        threads.submit("flood", flood)
    assert threads.submit("calm", lambda: 1).result(10) == 1
    flood.open.set()
    wait(futures, 30)


def test_an_error_is_the_callers_and_frees_its_place() -> None:
    threads = FairThreads(1, "test")
    with pytest.raises(ZeroDivisionError):
        threads.submit("a", lambda: 1 / 0).result(10)
    assert threads.submit("a", lambda: 1).result(10) == 1
