"""Workers are real processes: a killed one's job is taken up, and ends once."""

import signal
import time
from pathlib import Path

import pytest

from adapters.clip import FrozenCLIP
from service.settings import Settings
from tests.support.api import Api, start_api, start_worker, upload
from tests.support.waiting import wait_for
from training.data import Sample

TAKEN_UP_SECONDS = 15  # from a worker's death to the next attempt


@pytest.fixture
def own_redis(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a queue of its own, so that the session's worker takes nothing of it."""
    url = settings.redis_url.replace("db=0", "db=1")
    return settings.model_copy(update={"redis_url": url, "blob_url": tmp_path.as_uri()})


@pytest.fixture
def api(own_redis: Settings, clip: FrozenCLIP):
    yield from start_api(own_redis, clip)


def long_job(api: Api, samples: list[Sample], epochs: int = 30):
    client = api.new_tenant()
    dataset = upload(client, samples[:6] + samples[24:30])
    return client, client.create_job(dataset, "things", params={"epochs": epochs})["job"]


def job_of(client, job: str) -> dict:
    return client.call("GET", f"/v1/jobs/{job}")


def running(client, job: str) -> bool:
    return bool(job_of(client, job)["progress"])


def test_a_killed_workers_job_is_taken_up_and_ends_once(
    api: Api, own_redis: Settings, samples: list[Sample], tmp_path: Path
) -> None:
    first = start_worker(own_redis, tmp_path / "first")
    client, job = long_job(api, samples)
    wait_for(lambda: running(client, job))
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    first.wait()
    before = job_of(client, job)["started_at"]
    second = start_worker(own_redis, tmp_path / "second")
    try:
        wait_for(lambda: job_of(client, job)["started_at"] != before, 60)
        assert time.monotonic() - killed < TAKEN_UP_SECONDS + 10  # and the new worker's start
        wait_for(lambda: job_of(client, job)["finished_at"])
        ended = job_of(client, job)
        assert (ended["state"], ended["instant_version"]) == ("succeeded", 1)
        assert (ended["version"], ended["published"]) == (2, True)
        versions = client.call("GET", "/v1/adapters/things")["versions"]
        assert [(v["version"], v["kind"]) for v in versions] == [(2, "full"), (1, "instant")]
    finally:
        second.terminate()
        second.wait(60)


def test_a_waiting_worker_takes_up_a_killed_ones_job_within_15_seconds(
    api: Api, own_redis: Settings, samples: list[Sample], tmp_path: Path
) -> None:
    workers = [start_worker(own_redis, tmp_path / name) for name in ("one", "two")]
    try:
        client, job = long_job(api, samples)
        wait_for(lambda: running(client, job))
        busy = next(
            worker
            for worker, name in zip(workers, ("one", "two"), strict=True)
            if f"job {job}" in (tmp_path / name).read_text()
        )
        before = job_of(client, job)["started_at"]
        busy.send_signal(signal.SIGKILL)
        busy.wait()
        wait_for(lambda: job_of(client, job)["started_at"] != before, TAKEN_UP_SECONDS)
        wait_for(lambda: job_of(client, job)["state"] == "succeeded")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_a_stopping_worker_ends_its_fit_first(
    api: Api, own_redis: Settings, samples: list[Sample], tmp_path: Path
) -> None:
    worker = start_worker(own_redis, tmp_path / "log")
    client, job = long_job(api, samples, epochs=10)
    wait_for(lambda: running(client, job))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    assert job_of(client, job)["state"] == "succeeded"


def test_a_fit_that_cannot_be_done_fails_with_the_reason(
    api: Api, own_redis: Settings, samples: list[Sample], tmp_path: Path
) -> None:
    client, job = long_job(api, samples)
    dataset = job_of(client, job)["dataset"]
    client.call("DELETE", f"/v1/datasets/{dataset}")
    worker = start_worker(own_redis, tmp_path / "log")
    try:
        wait_for(lambda: job_of(client, job)["finished_at"])
        ended = job_of(client, job)
        assert (ended["state"], ended["error"]) == ("failed", f"there is no data set {dataset}")
    finally:
        worker.terminate()
        worker.wait(60)
