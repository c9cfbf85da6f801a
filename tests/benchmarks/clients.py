"""Clients in a process of their own: in the server's they would share its interpreter."""

import contextlib
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from service.client import Client, ClientError


@dataclass(frozen=True, slots=True)
class Caller:
    """One tenant's requests: a picture and the class names."""

    url: str
    api_key: str
    pictures: Sequence[bytes]
    classes: Sequence[str]

    def burst(self, clients: int, requests: int) -> list[float]:
        """Milliseconds of each of so many requests, by so many clients who never pause."""
        with (
            Client(self.url, self.api_key, wait_seconds=0) as client,
            ThreadPoolExecutor(clients) as threads,
        ):

            def once(i: int) -> float:
                start = time.perf_counter()
                client.classify([("p.jpg", self.pictures[i % len(self.pictures)])], self.classes)
                return 1000 * (time.perf_counter() - start)

            return list(threads.map(once, range(requests)))

    def p95(self, clients: int, requests: int) -> float:
        """Their 95th percentile."""
        return statistics.quantiles(self.burst(clients, requests), n=20)[-1]

    def flood(self, clients: int, seconds: float) -> None:
        """Asks and asks, refused or not."""
        end = time.monotonic() + seconds
        with (
            Client(self.url, self.api_key, wait_seconds=0) as client,
            ThreadPoolExecutor(clients) as threads,
        ):

            def until_the_end(first: int) -> None:
                for i in count(first):
                    if time.monotonic() > end:
                        return
                    with contextlib.suppress(ClientError):  # 429
                        picture = self.pictures[i % len(self.pictures)]
                        client.classify([("p.jpg", picture)], self.classes)

            list(threads.map(until_the_end, range(clients)))
