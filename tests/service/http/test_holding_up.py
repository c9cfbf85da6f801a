"""One client holds nobody else up: by silent connections, slow or large bodies, or streams."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import pytest

from adapters.clip import FrozenCLIP
from service.client import Client
from service.errors import TooMany, Unavailable
from service.http import auth, server
from service.http.inflight import FREE, InFlight
from service.records.jobs import JobSpec
from service.settings import Settings
from tests.support.api import Api, away_from_workers, start_api
from tests.support.records import plant_dataset
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    """Two megabytes of bodies at once; a stream's job stays queued, since no worker is there."""
    few = {"max_bytes_in_flight": 6 * 2**20, "redis_url": away_from_workers(settings)}
    yield from start_api(settings.model_copy(update=few), clip)


@pytest.fixture
def tenant(api: Api) -> Client:
    return api.new_tenant()


def connect(api: Api) -> socket.socket:
    host, port = api.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_sends_no_whole_head_is_closed(
    api: Api, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    with closing(connect(api)) as silent:
        silent.sendall(sent)
        started = time.monotonic()
        assert silent.recv(1000) == b""
    assert 0.3 < time.monotonic() - started < 10


def test_a_kept_connection_is_not_closed_between_two_requests(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with closing(connect(api)) as kept:
        for _ in range(2):
            kept.sendall(head)
            assert kept.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(1.0)


def test_a_body_that_stops_half_way_is_408(
    api: Api, tenant: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "BODY_SECONDS", 0.5)
    key = tenant.http.headers["authorization"]
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with closing(connect(api)) as slow:
        slow.sendall(head.encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_bytes_in_flight_are_bounded_for_a_tenant_and_in_all() -> None:
    held = InFlight(100)
    held.add("a", 50)
    with pytest.raises(TooMany):
        held.add("a", 1)
    held.add("b", 45)
    with pytest.raises(Unavailable):
        held.add("c", 6)
    held.give_back("a", 50)
    held.add("a", 50)


def test_bodies_that_wait_half_sent_refuse_their_own_tenants_next_and_nobody_elses(
    api: Api, tenant: Client
) -> None:
    def large(client: Client) -> httpx.Response:
        files = {"files": ("a.jpg", b"x" * (2 * 2**20))}
        return client.http.post("/v1/classify", data={"classes": "a,b"}, files=files)

    def held() -> float:
        text = httpx.get(f"{api.url}/metrics").text
        return float(re.findall(r"^rmadapter_body_bytes (\S+)$", text, re.MULTILINE)[0])

    key, before = tenant.http.headers["authorization"], held()
    size = 4 * 2**20
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {size + 100}\r\n\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    with closing(connect(api)) as waiting:
        waiting.sendall(head.encode() + part.encode() + b"x" * (size - len(part)))
        wait_for(lambda: held() >= before + size - FREE, 20)
        assert large(tenant).status_code == 429
        assert large(api.new_tenant()).status_code == 200  # an answer with the picture's error
    wait_for(lambda: large(tenant).status_code == 200, 20)  # given back when it hung up


@pytest.fixture
def job(api: Api, tenant: Client) -> str:
    records = api.components.records
    plant_dataset(records, tenant.tenant)
    return records.jobs.create(tenant.tenant, JobSpec("dataset_1", "a", {}, True)).id


def test_a_tenants_streams_are_bounded_and_another_tenants_are_not_touched(
    api: Api, tenant: Client, job: str
) -> None:
    path = f"/v1/jobs/{job}/events"
    with ExitStack() as streams:
        for _ in range(20):
            opened = streams.enter_context(tenant.http.stream("GET", path))
            assert opened.status_code == 200
        assert tenant.http.get(path).status_code == 429
    wait_for(lambda: _status(tenant, path) == 200, 20)


def _status(tenant: Client, path: str) -> int:
    with tenant.http.stream("GET", path) as stream:
        return stream.status_code


@pytest.mark.parametrize("how", ["its key is revoked", "its tenant is erased"])
def test_a_stream_ends_soon_after(
    api: Api, tenant: Client, job: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("service.http.routes.jobs.CHECK_SECONDS", 0.3)
    made = tenant.call("POST", "/v1/keys", json={"scope": "manage"})
    ended = threading.Event()

    def follow() -> None:
        path = f"/v1/jobs/{job}/events"
        with Client(api.url, made["api_key"]) as other, other.http.stream("GET", path) as stream:
            assert stream.status_code == 200
            for _ in stream.iter_raw():
                pass
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(1.0)
    assert not ended.is_set()
    if how == "its key is revoked":
        tenant.call("DELETE", f"/v1/keys/{made['key_id']}")
    else:
        with api.admin() as admin:
            admin.call("DELETE", f"/v1/tenants/{tenant.tenant}")
    assert ended.wait(20)
    thread.join()
