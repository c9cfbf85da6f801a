"""How often an adapter is found, by simulation: tenants by Zipf's law, N API servers, two tiers.

python -m tests.benchmarks.cache                                    the tables of docs/sizing.md
python -m tests.benchmarks.cache --device 256 --host 16384

Each server keeps the adapters used last: some on the device, more in host memory. Requests go to a
server at random, or always to the one that a tenant's hash names.
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

WARM, COUNTED = 100_000, 200_000  # requests of each server
DEVICE, HOST = 64, 1024  # adapters that each tier holds

Tenants = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of requests whose adapter is on the device, or at least in host memory; and the
    busiest server's load over the mean."""

    device: float
    host: float
    busiest: float


def zipf(tenants: int, n: int, generator: np.random.Generator, exponent: float = 1.0) -> Tenants:
    """int64 [n]: tenant k is drawn in proportion to 1/k^exponent."""
    weights = np.cumsum(np.arange(1, tenants + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(weights, generator.random(n) * weights[-1]).astype(np.int64)


def hits(requests: Tenants, capacity: int, counted_from: int) -> float:
    """The share of later requests that a cache of the least recently used finds."""
    cache: OrderedDict[int, None] = OrderedDict()
    found = 0
    for i, tenant in enumerate(requests.tolist()):
        if tenant in cache:
            cache.move_to_end(tenant)
            found += i >= counted_from
        else:
            cache[tenant] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return found / max(1, len(requests) - counted_from)


def simulate(
    tenants: int,
    servers: int,
    routed: bool,
    device: int = DEVICE,
    host: int = HOST,
    seed: int = 0,
) -> Rates:
    """One server of several is simulated, and of routed ones an ordinary one: not that which has
    the largest tenant."""
    generator = np.random.default_rng(seed)
    if not routed or servers == 1:
        own = zipf(tenants, WARM + COUNTED, generator)
        return Rates(hits(own, device, WARM), hits(own, host, WARM), 1.0)
    home = generator.integers(0, servers, tenants)
    stream = zipf(tenants, servers * (WARM + COUNTED), generator)
    at = home[stream]
    loads = np.bincount(at, minlength=servers)
    ordinary = int(np.argsort(loads)[servers // 2])
    own = stream[at == ordinary]
    first = len(own) // 3
    busiest = float(loads.max() / loads.mean())
    return Rates(hits(own, device, first), hits(own, host, first), busiest)


def che(tenants: int, capacity: int) -> float:
    """The same share by Che's approximation (Che, Tung, Wang 2002), of exponent 1."""
    shares = 1 / np.arange(1, tenants + 1)
    shares /= shares.sum()
    low, high = 0.0, 1e12
    for _ in range(200):
        time = (low + high) / 2
        held = (1 - np.exp(-shares * time)).sum()
        low, high = (time, high) if held < capacity else (low, time)
    return float((shares * (1 - np.exp(-shares * low))).sum())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache")
    parser.add_argument("--device", type=int, default=DEVICE, help="adapters on the device")
    parser.add_argument("--host", type=int, default=HOST, help="and in host memory")
    given = parser.parse_args()
    title = f"{given.device} adapters on the device, {given.host:,} in host memory, of each server"
    table = Table(
        "tenants", "servers", "sent", "on the device", "in memory", "busiest", title=title
    )
    for tenants in (100, 1_000, 10_000, 100_000, 1_000_000):
        for servers in (1, 4, 16):
            for routed in (False, True) if servers > 1 else (False,):
                rates = simulate(tenants, servers, routed, given.device, given.host)
                sent = "by tenant" if routed else "at random"
                shares = (f"{rates.device:.1%}", f"{rates.host:.1%}", f"{rates.busiest:.1f} ×")
                table.add_row(f"{tenants:,}", str(servers), sent, *shares)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
