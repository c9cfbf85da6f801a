"""The simulation of docs/sizing.md finds what a plain cache and Che's formula find."""

import numpy as np
import pytest

from tests.benchmarks.cache import che, hits, simulate, zipf


def plainly(requests: list[int], capacity: int) -> float:
    """A list, the latest last."""
    kept: list[int] = []
    found = 0
    for tenant in requests:
        if tenant in kept:
            found += 1
            kept.remove(tenant)
        kept.append(tenant)
        del kept[:-capacity]
    return found / len(requests)


@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_the_cache_is_one_of_the_least_recently_used(capacity: int) -> None:
    requests = zipf(200, 3000, np.random.default_rng(1))
    assert hits(requests, capacity, 0) == plainly(requests.tolist(), capacity)


def test_tenants_are_drawn_by_zipfs_law() -> None:
    drawn = np.bincount(zipf(50, 200_000, np.random.default_rng(2)))
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.05)
    assert len(drawn) == 50


@pytest.mark.parametrize("tenants", [1_000, 100_000])
def test_hit_rates_are_those_of_ches_approximation(tenants: int) -> None:
    rates = simulate(tenants, servers=4, routed=False)
    assert rates.device == pytest.approx(che(tenants, 64), abs=0.01)
    assert rates.host == pytest.approx(che(tenants, min(1024, tenants - 1)), abs=0.015)


def test_routing_by_tenant_finds_more_and_loads_servers_unevenly() -> None:
    spread, routed = (simulate(10_000, 4, routed) for routed in (False, True))
    assert routed.device > spread.device + 0.05
    assert routed.busiest > 1.1
