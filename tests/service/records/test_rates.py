"""Rates: a burst, then an even pace, for each tenant and kind of call; nobody waits for Redis."""

import logging
import os
import signal
import time
from collections.abc import Iterator

import pytest

from adapters.clip import FrozenCLIP
from service.embedded.redis_server import RedisServer
from service.errors import TooMany
from service.records.rates import Rate, Rates
from service.settings import Settings
from tests.support.api import Api, start_api
from tests.support.limits import rates, taken
from training.data import Sample


def test_a_burst_is_let_through_and_then_no_more(server: RedisServer) -> None:
    limiter = rates(server, classify=Rate(0.01, 7))
    assert taken(limiter, "a", "classify") == 7
    assert taken(limiter, "a", "classify") == 0


def test_tenants_and_kinds_are_counted_apart_and_servers_together(server: RedisServer) -> None:
    kinds = {"classify": Rate(0.01, 5), "manage": Rate(0.01, 3)}
    one, other = rates(server, **kinds), rates(server, **kinds)
    assert taken(one, "a", "classify") == 5
    assert taken(other, "a", "classify") == 0
    assert taken(other, "a", "manage") == 3
    assert taken(other, "b", "classify") == 5


def test_after_retry_after_the_next_call_is_let_through_and_not_long_before(
    server: RedisServer,
) -> None:
    limiter = rates(server, slow=Rate(1 / 3, 1), fast=Rate(2.0, 1))
    for kind, seconds in (("slow", 3), ("fast", 1)):
        limiter.take("a", kind)
        with pytest.raises(TooMany) as refused:
            limiter.take("a", kind)
        assert refused.value.retry_after == seconds
    time.sleep(1.0)
    limiter.take("a", "fast")
    with pytest.raises(TooMany) as refused:
        limiter.take("a", "slow")
    assert refused.value.retry_after == 2
    time.sleep(2.0)
    limiter.take("a", "slow")


def test_a_refused_call_costs_nothing(server: RedisServer) -> None:
    limiter = rates(server, classify=Rate(2.0, 1))
    limiter.take("a", "classify")
    for _ in range(50):
        with pytest.raises(TooMany):
            limiter.take("a", "classify")
    time.sleep(0.6)
    limiter.take("a", "classify")


def test_zero_is_no_limit(server: RedisServer) -> None:
    assert taken(rates(server, classify=Rate(0, 1)), "a", "classify") == 1000


def test_what_is_counted_is_forgotten_when_it_no_longer_matters(server: RedisServer) -> None:
    limiter = rates(server, classify=Rate(10.0, 2))
    taken(limiter, "a", "classify")
    assert limiter.store.pttl("rmadapter:tenant:a:rate:classify") <= 300


@pytest.mark.parametrize("how", ["ended", "hangs"])
def test_without_redis_each_server_limits_its_own_calls_at_once_and_the_log_says_so_once(
    server: RedisServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = rates(server, classify=Rate(0.01, 50))
    other = rates(server, classify=Rate(0.01, 50))
    for _ in range(10):
        one.take("a", "classify")
    if how == "ended":
        server.kill()
    else:
        os.kill(server.pid, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING):
        started = time.monotonic()
        let_through = taken(one, "a", "classify"), taken(other, "a", "classify")
        waited = time.monotonic() - started
    if how == "hangs":
        os.kill(server.pid, signal.SIGCONT)
    assert let_through == (40, 50)
    assert waited < 4.0  # two time-outs of 0.2 s; ninety would take 18
    assert [r.message for r in caplog.records] == [
        "Redis does not answer; for 5 s rates are by this server alone"
    ] * 2


def test_a_flood_is_refused_by_its_server_without_asking_redis(server: RedisServer) -> None:
    limiter = rates(server, classify=Rate(0.01, 5))
    assert taken(limiter, "a", "classify") == 5
    before = asked(limiter)
    for _ in range(100):
        with pytest.raises(TooMany):
            limiter.take("a", "classify")
    assert asked(limiter) == before


def test_what_other_servers_let_through_leaves_a_servers_own_count_as_it_was(
    server: RedisServer,
) -> None:
    one, other = (rates(server, classify=Rate(2.0, 3)) for _ in range(2))
    assert taken(one, "a", "classify") == 3
    for _ in range(20):
        with pytest.raises(TooMany):
            other.take("a", "classify")
    time.sleep(0.6)
    other.take("a", "classify")


def asked(limiter: Rates) -> int:
    """Scripts that Redis ran so far."""
    return int(limiter.store.info("commandstats")["cmdstat_eval"]["calls"])


# --- over HTTP ---


@pytest.fixture(scope="module")
def api(
    settings: Settings, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    slow = {
        "classify_rate": 0.2,
        "classify_burst": 3,
        "manage_rate": 0.5,
        "manage_burst": 4,
        "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
    }
    yield from start_api(settings.model_copy(update=slow), clip)


def test_too_many_calls_are_429_with_retry_after(api: Api, samples: list[Sample]) -> None:
    client, other = api.new_tenant(), api.new_tenant()

    def classify(asker=client):
        files = [("files", (samples[0].name, samples[0].data))]
        return asker.http.post("/classify", data={"classes": '["a", "b"]'}, files=files)

    answers = [classify() for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert answers[3].json()["detail"] == "more than 0.2 classify calls a second"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 5
    assert classify(other).status_code == 200
    statuses = [client.http.get("/v1/datasets").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 429]
