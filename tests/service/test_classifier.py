"""What happens to a request's pictures before the device."""

import asyncio
import threading

import numpy as np
import pytest

from adapters.clip import FrozenCLIP
from adapters.pixels import ImageLimits
from service.inference import classifier
from service.inference.classifier import Classifier, Limits


def test_a_floods_pictures_leave_threads_for_another_tenants(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, begun = threading.Event(), []

    def decode(data: bytes, *_: object) -> np.ndarray:
        begun.append(data)
        if data == b"flood":
            release.wait(30)
        return np.zeros((3, 224, 224), np.uint8)

    monkeypatch.setattr(classifier, "decode", decode)
    made = Classifier(clip, None, None, Limits(ImageLimits(), 9, 9, 9.0), 4, 9)

    async def run() -> None:
        flood = [asyncio.create_task(made._decode("flood", b"flood")) for _ in range(10)]
        await asyncio.sleep(0.2)
        await asyncio.wait_for(made._decode("calm", b"calm"), 10)
        assert begun == [b"flood", b"flood", b"calm"]
        release.set()
        await asyncio.gather(*flood)

    asyncio.run(run())
    assert begun.count(b"flood") == 10
