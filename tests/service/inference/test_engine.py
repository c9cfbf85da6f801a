"""The queue is fair and bounded; a row that breaks fails alone."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from service.errors import TooMany, Unavailable
from service.inference import engine as engine_module
from service.inference.engine import Engine, FairQueue, Row


@dataclass(frozen=True)
class Picture:
    name: str


class FakeBackend:
    """Features are the name's length; small enough to read. `gate` holds the device up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lost = False
        self.room = 100  # rows that its memory holds
        self.error: Exception | None = None
        self.freed = 0

    def images(self, pixels, slots):
        return self.texts([picture.name for picture in pixels], slots)

    def texts(self, prompts, slots):
        self.gate.wait()
        self.batches.append(list(prompts))
        if self.error:
            raise self.error
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.lost or "poison" in prompts:
            raise RuntimeError("device error")
        return np.array([[len(p), s] for p, s in zip(prompts, slots, strict=True)], np.float32)

    def write(self, slot, weights) -> None:
        self.batches.append([f"write {slot}"])

    def ping(self) -> None: ...

    def free_memory(self) -> None:
        self.freed += 1

    def check(self) -> None:
        if self.lost:
            raise RuntimeError("the device is lost")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def engine(backend: FakeBackend):
    running = Engine(backend, max_batch=4, max_queued_rows=8)
    running.start()
    yield running
    backend.gate.set()
    running.stop()


def rows(tenant: str, *names: str) -> list[Row]:
    return [Row(tenant, 0, Picture(name)) for name in names]


def test_a_tenant_is_refused_when_its_pictures_would_wait_for_too_long(
    backend: FakeBackend,
) -> None:
    """One tenant's flood is refused, another tenant's picture is not: it waits for one of them."""
    engine = Engine(backend, max_batch=1, max_queued_rows=1000, max_queue_seconds=2.0)
    engine.gate.picture_seconds = 0.1  # as measured on the batches before
    with engine.admitted("flood") as flood:
        flood.hold(30)
        with pytest.raises(TooMany, match=r"3\.0 s") as refused, engine.admitted("flood"):
            pass
        assert refused.value.retry_after == 3
        with engine.admitted("other") as other:
            other.hold(19)
            with pytest.raises(TooMany, match=r"3\.9 s"):  # 19 of its own, 20 of the flood's
                engine.check_wait("other")
            engine.check_wait("third")
    engine.check_wait("flood")


def test_a_tenant_with_one_row_waits_for_one_row_of_a_flood() -> None:
    queue = FairQueue(100)
    queue.put(rows("flood", *map(str, range(50))))
    queue.put(rows("small", "a"))
    assert [row.tenant for row in queue.take(4)] == ["flood", "small", "flood", "flood"]


def test_rows_of_a_tenant_keep_their_order() -> None:
    queue = FairQueue(100)
    queue.put(rows("t", "1", "2", "3"))
    assert [row.content.name for row in queue.take(2) + queue.take(2)] == ["1", "2", "3"]


def test_a_full_queue_takes_nothing_of_a_request_that_does_not_fit() -> None:
    queue = FairQueue(3)
    queue.put(rows("t", "1", "2"))
    with pytest.raises(TooMany) as refused:
        queue.put(rows("t", "3", "4"))
    assert refused.value.retry_after >= 1
    assert len(queue) == 2


def test_a_row_that_nobody_waits_for_frees_its_place() -> None:
    queue = FairQueue(3)
    gone, kept = rows("t", "1", "2")
    queue.put([gone, kept])
    gone.future.cancel()
    assert queue.take(1) == [kept]
    assert len(queue) == 0


def test_prompts_take_a_sixteenth_of_a_pictures_place_in_a_batch() -> None:
    queue = FairQueue(100)
    queue.put([Row("t", 0, "a prompt") for _ in range(50)])
    assert len(queue.take(2)) == 17  # 16, and the one that ends the batch
    queue.put(rows("u", "1", "2"))
    assert [type(row.content) for row in queue.take(2)] == [str, Picture]


def test_rows_that_are_withdrawn_free_their_places_at_once(
    engine: Engine, backend: FakeBackend
) -> None:
    backend.gate.clear()
    engine.submit(rows("t", "hold"))
    while len(engine.queue):
        pass
    gone, kept = rows("t", *"12345678"), rows("u", "kept")
    engine.submit(gone)
    with pytest.raises(TooMany):
        engine.submit(kept)
    engine.withdraw(gone[:7])
    engine.submit(kept)
    assert len(engine.queue) == 2
    backend.gate.set()
    assert kept[0].future.result(5)[0] == 4
    assert gone[7].future.result(5)[0] == 1
    assert all(row.future.cancelled() for row in gone[:7])


def test_each_row_gets_its_own_feature(engine: Engine) -> None:
    waiting = [Row("t", slot, Picture("x" * slot)) for slot in range(1, 5)]
    engine.submit(waiting)
    assert [row.future.result(5).tolist() for row in waiting] == [[s, s] for s in range(1, 5)]


def test_the_queue_fills_while_the_device_works(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    first = rows("t", "first")
    engine.submit(first)
    while len(engine.queue):  # until the device has taken it
        pass
    more = rows("t", "a", "b", "c", "d", "e")
    engine.submit(more)
    backend.gate.set()
    more[-1].future.result(5)
    assert backend.batches == [["first"], ["a", "b", "c", "d"], ["e"]]


def test_a_row_that_breaks_the_batch_fails_alone(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    engine.submit(rows("t", "hold"))
    mixed = rows("t", "good", "poison", "fine")
    engine.submit(mixed)
    backend.gate.set()
    assert mixed[0].future.result(5)[0] == 4
    assert isinstance(mixed[1].future.exception(5), RuntimeError)
    assert mixed[2].future.result(5)[0] == 4


def test_writes_happen_between_batches(engine: Engine, backend: FakeBackend) -> None:
    engine.write(3, None).result(5)
    assert backend.batches == [["write 3"]]


def test_a_stopping_engine_finishes_what_it_took_and_takes_no_more(backend: FakeBackend) -> None:
    engine = Engine(backend, max_batch=4, max_queued_rows=8)
    engine.start()
    backend.gate.clear()
    taken = rows("t", "1", "2", "3", "4", "5", "6")
    engine.submit(taken)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    while not engine.stopping:
        pass
    with pytest.raises(Unavailable, match="shutting down"):
        engine.submit(rows("t", "late"))
    backend.gate.set()
    stopper.join(5)
    assert all(row.future.done() for row in taken)


def test_a_device_that_fails_is_told_from_a_row_that_breaks(
    backend: FakeBackend, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    backend.lost = True
    sent = rows("t", "one", "two")
    engine.submit(sent)
    for row in sent:
        with pytest.raises(Unavailable, match="device fails"):
            row.future.result(5)
    assert "the device is lost" in caplog.text
    with pytest.raises(RuntimeError, match="lost"):
        engine.ping().result(5)
    backend.lost = False
    engine.ping().result(5)  # it is back


def test_where_memory_runs_out_the_batch_is_halved_and_stays_small_for_a_while(
    backend: FakeBackend, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_GROW_AFTER", 4)
    backend.room = 2
    backend.gate.clear()
    engine.submit(rows("t", "hold"))
    sent = rows("t", *"abcdefgh")
    while len(engine.queue):
        pass
    engine.submit(sent)
    backend.gate.set()
    assert [row.future.result(5)[0] for row in sent] == [1] * 8
    assert [len(batch) for batch in backend.batches] == [1, 4, 2, 2, 2, 2]
    assert backend.freed == 1
    more = rows("t", *"ijklmnop")
    backend.room = 100
    engine.submit(more)
    assert more[-1].future.result(5)[0] == 1
    assert [len(batch) for batch in backend.batches[6:]] == [4, 4]


def test_where_not_even_one_row_fits_into_memory_it_is_unavailable(
    backend: FakeBackend, engine: Engine
) -> None:
    backend.room = 0
    sent = rows("t", "one", "two")
    engine.submit(sent)
    for row in sent:
        with pytest.raises(Unavailable, match="memory is full"):
            row.future.result(5)
    assert not engine.lost.is_set()
    backend.room = 100
    again = rows("t", "three")
    engine.submit(again)
    assert again[0].future.result(5)[0] == 5


LASTING = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA failure 702: the launch timed out and was terminated ; GPU=0",
]


@pytest.mark.parametrize("words", LASTING)
def test_a_lost_device_is_said_to_all_who_wait_and_takes_no_more(
    backend: FakeBackend, engine: Engine, words: str
) -> None:
    backend.gate.clear()
    engine.submit(rows("t", "hold"))
    while len(engine.queue):
        pass
    sent = rows("t", *"abcdef")
    engine.submit(sent)
    backend.error = RuntimeError(words)
    backend.gate.set()
    for row in sent:
        with pytest.raises(Unavailable, match="device is lost"):
            row.future.result(5)
    assert engine.lost.is_set()
    assert backend.batches == [["hold"]]  # nothing was tried after it
    with pytest.raises(Unavailable, match="device is lost"):
        engine.submit(rows("t", "late"))
    with pytest.raises(Unavailable, match="device is lost"):
        engine.ping()


def test_a_device_that_fails_for_long_is_lost_whatever_it_says(
    backend: FakeBackend, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.lost = True
    first = rows("t", "one")
    engine.submit(first)
    with pytest.raises(Unavailable, match="device fails"):
        first[0].future.result(5)
    assert not engine.lost.is_set()
    monkeypatch.setattr(engine_module, "_LOST_AFTER", 0.0)
    with pytest.raises(RuntimeError, match="lost"):
        engine.ping().result(5)
    assert engine.lost.is_set()


def test_a_swap_that_finds_the_device_lost_says_so_to_the_next(
    backend: FakeBackend, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(slot, weights):
        raise RuntimeError(LASTING[0])

    monkeypatch.setattr(backend, "write", break_down)
    with pytest.raises(RuntimeError, match="illegal"):
        engine.write(1, None).result(5)
    assert engine.lost.is_set()
