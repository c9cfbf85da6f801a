"""What happens to a request's pictures before the device."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest

from adapters.clip import FrozenCLIP
from adapters.errors import BadImage
from adapters.pixels import ImageLimits
from service.fair_threads import FairThreads
from service.inference import classifier
from service.inference.classifier import Classifier, Limits, Question, Upload
from service.inference.tiers import Lease

LIMITS = Limits(ImageLimits(), 9, 9, 9.0)


def test_a_floods_pictures_leave_threads_for_another_tenants(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, begun = threading.Event(), []

    def decode(data: bytes, *_: object) -> np.ndarray:
        begun.append(data)
        if data == b"flood":
            release.wait(30)
        return np.zeros((3, 224, 224), np.uint8)

    monkeypatch.setattr(classifier, "decode_image", decode)
    made = Classifier(
        clip, None, None, Limits(ImageLimits(), 9, 9, 9.0), FairThreads(4, "decode"), 9
    )

    async def run() -> None:
        flood = [asyncio.create_task(made.decode_picture("flood", b"flood")) for _ in range(10)]
        await asyncio.sleep(0.2)
        await asyncio.wait_for(made.decode_picture("calm", b"calm"), 10)
        assert begun == [b"flood", b"flood", b"calm"]
        release.set()
        await asyncio.gather(*flood)

    asyncio.run(run())
    assert begun.count(b"flood") == 10


def test_one_who_hangs_up_keeps_its_turn_until_its_work_has_ended(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, running, most = threading.Event(), [0], [0]

    def decode(data: bytes, *_: object) -> np.ndarray:
        if data == b"flood":
            running[0] += 1
            most[0] = max(most[0], running[0])
            release.wait(30)
            running[0] -= 1
        return np.zeros((3, 224, 224), np.uint8)

    monkeypatch.setattr(classifier, "decode_image", decode)
    made = Classifier(
        clip, None, None, Limits(ImageLimits(), 9, 9, 9.0), FairThreads(4, "decode"), 9
    )

    async def run() -> None:
        for _ in range(5):  # requests of one client that hangs up each time
            flood = [asyncio.create_task(made.decode_picture("flood", b"flood")) for _ in range(4)]
            await asyncio.sleep(0.05)
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
        await asyncio.wait_for(made.decode_picture("calm", b"calm"), 10)
        release.set()
        await asyncio.wait_for(
            made.decode_picture("flood", b"calm"), 10
        )  # the turns have come back

    asyncio.run(run())
    assert most[0] == 2


def test_a_slot_is_held_for_the_devices_work_and_not_while_pictures_are_decoded(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Tiers:
        @asynccontextmanager
        async def lease(self, version: object) -> AsyncIterator[Lease]:
            happened.append("leased")
            yield Lease(1, "device")

    def decode(data: bytes, *_: object) -> np.ndarray:
        happened.append("decoded")
        raise BadImage("no picture")

    monkeypatch.setattr(classifier, "decode_image", decode)
    made = Classifier(
        clip, None, Tiers(), Limits(ImageLimits(), 9, 9, 9.0), FairThreads(4, "decode"), 9
    )
    monkeypatch.setattr(made, "text_features_of", AsyncMock())
    question = Question(
        tenant="t",
        version=Mock(sha256=""),
        classes=("a", "b"),
        templates=("{}",),
        top_k=None,
        min_score=None,
    )
    asyncio.run(made.classify(question, [Upload("a.jpg", b"x")], Mock()))
    assert happened == ["decoded", "leased"]
