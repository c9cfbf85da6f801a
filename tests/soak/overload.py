"""At capacity for as long as asked, then ten times of it: memory, waiting times, refusals.

Requests come at a rate of their own, whatever the answers, as those of many users do.
"""

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from service.client import Client
from tests.support.processes import resident_mb
from training.data import Sample

STEP_SECONDS = 8.0  # of each rate in the search for the capacity
_KEPT = 0.9  # of a rate: what must be answered, well and soon, for it to be within the capacity
_SOON_SECONDS = 1.0
OVERLOAD, OVERLOAD_SECONDS = 10, 30.0
_SETTLE_SECONDS, RECOVERED_SECONDS = 5.0, 10.0
_MAX_RATIO = 2.0  # of the waiting time under overload to that at capacity
_RSS_SECONDS = 1.0
_PICTURES = 32  # of one request while warming up: every batch that these fall into
_TIMEOUT_SECONDS = 60.0
CLASSES = ("crab", "lotus", "cup")


@dataclass
class Load:
    """What a while of requests gave: seconds of those answered, and the statuses of all."""

    seconds: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)  # when each was answered
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0

    def p99(self) -> float:
        return float(np.percentile(self.seconds, 99)) if self.seconds else math.inf


class Overload:
    """One API server under load."""

    def __init__(self, url: str, pid: int, client: Client, samples: list[Sample]) -> None:
        self._address = httpx.URL(url).host, httpx.URL(url).port
        self._pid, self._client, self._samples = pid, client, samples
        self._requests = [self._request(sample) for sample in samples]

    def _request(self, sample: Sample) -> bytes:
        """As it is sent: a client that made each anew would be what is waited for."""
        files = [("files", (sample.name, sample.data))]
        data = {"classes": list(CLASSES)}
        request = self._client.http.build_request("POST", "/classify", files=files, data=data)
        request.headers["connection"] = "close"
        head = [b"POST /classify HTTP/1.1", *(b"%b: %b" % pair for pair in request.headers.raw)]
        return b"\r\n".join(head) + b"\r\n\r\n" + request.read()

    def warm(self) -> None:
        """Every size of batch once: buffers of each are kept, and are no leak."""
        for size in range(_PICTURES, 0, -1):
            photos = self._samples[:size]
            self._client.classify([(s.name, s.data) for s in photos], CLASSES)

    def capacity(self) -> float:
        """Requests a second: the last rate, half as much more each time, that is kept up with."""
        asyncio.run(self._load(2.0, 3.0))
        rate, kept = 2.0, 1.0
        while True:
            load = asyncio.run(self._load(rate, STEP_SECONDS))
            well = load.statuses[200] >= _KEPT * load.statuses.total()
            if not well or load.p99() > _SOON_SECONDS:
                return kept
            kept, rate = rate, rate * 1.5

    def run(self, seconds: float) -> dict[str, Any]:
        self.warm()
        rate = self.capacity()
        steady, memory = asyncio.run(self._watched(rate, seconds))
        over = asyncio.run(self._load(OVERLOAD * rate, OVERLOAD_SECONDS))
        time.sleep(_SETTLE_SECONDS)
        after = asyncio.run(self._load(rate, RECOVERED_SECONDS))
        halves = np.array_split(steady.seconds, 2)
        ratio = over.p99() / steady.p99()
        report = {
            "capacity, requests a second": round(rate, 1),
            "seconds at capacity": round(seconds),
            "answers at capacity": len(steady.seconds),
            "p99 of the first and the second half, seconds": [
                round(float(np.percentile(half, 99)), 3) for half in halves
            ],
            **memory,
            "overload, requests a second": round(OVERLOAD * rate, 1),
            "overload, by status": dict(over.statuses),
            "overload, p99 of the accepted, seconds": round(over.p99(), 3),
            "its ratio to that at capacity": round(ratio, 2),
            "refusals without Retry-After": over.without_retry_after,
            "afterwards, by status": dict(after.statuses),
            "afterwards, p99, seconds": round(after.p99(), 3),
        }
        bounds = []
        if ratio > _MAX_RATIO:
            bounds.append(f"p99 of the accepted above {_MAX_RATIO:g} times that at capacity")
        if after.statuses[200] < _KEPT * after.statuses.total():
            bounds.append("not back at full speed after the overload")
        losses = self._losses(steady, over, after)
        return report | {"bounds not kept": bounds, "losses": losses}

    def _losses(self, steady: Load, over: Load, after: Load) -> list[str]:
        losses = []
        if set(steady.statuses) | set(over.statuses) | set(after.statuses) > {200, 429}:
            losses.append("an answer that is neither 200 nor 429")
        if over.without_retry_after:
            losses.append("a refusal without Retry-After")
        if not over.statuses[429] or not over.statuses[200]:
            losses.append("overload refused nothing, or everything")
        return losses

    async def _watched(self, rate: float, seconds: float) -> tuple[Load, dict[str, Any]]:
        rss: list[tuple[float, float]] = []

        async def watch() -> None:
            while True:
                rss.append((time.monotonic(), resident_mb(self._pid)))
                await asyncio.sleep(_RSS_SECONDS)

        watching = asyncio.create_task(watch())
        load = await self._load(rate, seconds)
        watching.cancel()
        slope, margin = trend(np.array(rss[len(rss) // 5 :]))  # warm by then
        return load, {
            "memory, MB, at ten even times": [round(mb) for _, mb in rss[:: max(1, len(rss) // 9)]],
            "memory's slope, MB an hour": round(slope * 3600, 1),
            "its 95% interval": [
                round((slope - margin) * 3600, 1),
                round((slope + margin) * 3600, 1),
            ],
        }

    async def _load(self, rate: float, seconds: float) -> Load:
        load, started = Load(), time.monotonic()
        tasks = []
        for i in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + i / rate - time.monotonic()))
            tasks.append(asyncio.create_task(self._ask(load, i)))
        await asyncio.gather(*tasks)
        return load

    async def _ask(self, load: Load, i: int) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(*self._address)
                writer.write(self._requests[i % len(self._requests)])
                answer = await reader.read()
                writer.close()
        except OSError:
            answer = b""
        status = int(answer[9:12] or 0)
        load.statuses[status] += 1
        if status == 200:
            load.at.append(time.monotonic())
            load.seconds.append(load.at[-1] - asked)
        elif b"\r\nretry-after:" not in answer.partition(b"\r\n\r\n")[0].lower():
            load.without_retry_after += 1


def trend(points: np.ndarray) -> tuple[float, float]:
    """Least squares of [N, 2]: the slope, and 1.96 of its standard errors."""
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    slope = float(x @ y / (x @ x))
    residual = y - slope * x
    error = math.sqrt(float(residual @ residual) / max(1, len(x) - 2) / float(x @ x))
    return slope, 1.96 * error
