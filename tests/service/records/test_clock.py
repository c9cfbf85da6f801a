"""Clocks that are wrong, or jump: jobs end once, leases and rates last as long as they should."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from service.embedded.redis_server import RedisServer, carried_server
from service.errors import Conflict, TooMany
from service.records import Records, open_records
from service.records.jobs import LEASE_SECONDS, JobSpec
from service.records.rates import Rate
from service.settings import Settings
from tests.support.api import Api, start_worker, upload
from tests.support.limits import rates, taken
from tests.support.records import plant_dataset
from tests.support.waiting import wait_for
from training.data import Sample
from training.jobs import QUEUE, FitJob

if not sys.platform.startswith("linux"):
    pytest.skip("needs libfaketime, which is for Linux", allow_module_level=True)

import libfaketime

HOUR = 3600
SPEC = JobSpec("dataset_1", "flowers", {}, True)


class Clock:
    """What processes that were started with `environment` take for the time; it may jump."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)
        _, faked = libfaketime.get_reload_information()
        self.environment = faked | {"FAKETIME_TIMESTAMP_FILE": str(file)}

    def jump(self, seconds: int) -> None:
        """So far from the right time from now on."""
        self._file.write_text(f"{seconds:+d}")


class ServerWithClock(RedisServer):
    """A Redis that goes by a clock of its own: the carried one, as others' jemalloc asks for the
    time before libfaketime is ready."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder)
        self._clock = clock

    def jump(self, seconds: int) -> None:
        """Its clock is so far from the right one from now on."""
        self._clock.jump(seconds)
        wait_for(lambda: abs(self._ahead() - seconds) < 5)

    def _ahead(self) -> float:
        seconds, _ = redis.Redis.from_url(self.url).time()
        return float(seconds) - time.time()

    def _command(self) -> list[str]:
        variables = [f"{name}={value}" for name, value in self._clock.environment.items()]
        return ["env", *variables, str(carried_server()), *super()._command()[1:]]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[ServerWithClock]:
    running = ServerWithClock(tmp_path / "redis", clock)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def records(server: RedisServer, settings: Settings, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "blobs").as_uri(), settings)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_tenant_may_ask_again_soon_after_a_jump(server: ServerWithClock, jump: int) -> None:
    def calls() -> int:
        return taken(limiter(), "a", "classify")

    limiter = partial(rates, server, classify=Rate(2.0, 3))
    assert calls() == 3
    assert calls() == 0
    server.jump(jump)
    assert calls() == 3  # as after a pause: for Redis no time between holds any more
    with pytest.raises(TooMany) as refused:
        limiter().take("a", "classify")
    assert refused.value.retry_after == 1


def test_a_dead_workers_job_does_not_wait_for_an_hour_when_the_clock_is_set_back(
    records: Records, server: ServerWithClock
) -> None:
    tenant = records.tenants.create("someone")[0].id
    plant_dataset(records, tenant)
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    assert records.jobs.claim(job, "dead") is not None
    server.jump(-HOUR)
    lease = f"rmadapter:tenant:{tenant}:job:{job.job}:lease"
    assert records.store.ttl(lease) > LEASE_SECONDS
    with pytest.raises(Conflict, match="another worker has"):
        records.jobs.claim(job, "another")
    assert 0 < records.store.ttl(lease) <= LEASE_SECONDS


def test_a_lost_message_is_sent_again_within_a_lease_when_the_clock_is_set_back(
    records: Records, server: ServerWithClock
) -> None:
    tenant = records.tenants.create("someone")[0].id
    plant_dataset(records, tenant)
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.claim(job, "dead")
    records.jobs.broker.flush(QUEUE)
    server.jump(-HOUR)
    records.jobs.dispatch_all()
    for name in ("lease", "just-sent"):
        assert 0 < records.store.ttl(f"rmadapter:tenant:{tenant}:job:{job.job}:{name}") <= 15
    assert records.store.llen(f"dramatiq:{QUEUE}") == 0


def test_a_job_ends_once_while_clocks_jump_and_a_worker_is_an_hour_wrong(
    api_alone: Api, server: ServerWithClock, clock: Clock, samples: list[Sample], tmp_path: Path
) -> None:
    """One worker goes by the clock that jumps, as Redis does; the other one is an hour ahead."""
    settings = api_alone.components.settings
    (tmp_path / "wrong").mkdir()
    wrong = Clock(tmp_path / "wrong" / "clock")
    wrong.jump(HOUR)
    workers = [
        start_worker(settings, tmp_path / "one", clock.environment),
        start_worker(settings, tmp_path / "two", wrong.environment),
    ]
    try:
        client = api_alone.new_tenant()
        dataset = upload(client, samples[:6] + samples[24:30])
        for number, jump in enumerate((HOUR, -HOUR), 1):
            job = client.create_job(dataset, "things", params={"epochs": 20}, publish=False)["job"]
            wait_for(lambda job=job: client.call("GET", f"/v1/jobs/{job}")["progress"])
            server.jump(jump)
            wait_for(lambda job=job: client.call("GET", f"/v1/jobs/{job}")["finished_at"])
            ended = client.call("GET", f"/v1/jobs/{job}")
            assert (ended["state"], ended["version"]) == ("succeeded", number)
            versions = client.call("GET", "/v1/adapters/things")
            assert [v["version"] for v in versions["versions"]] == list(range(number, 0, -1))
            client.publish("things", number)
            photo = samples[0]
            answer = client.classify([(photo.name, photo.data)], None, "things")
            assert answer["version"] == number
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
