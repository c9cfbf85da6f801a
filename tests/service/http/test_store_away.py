"""An object store that is away, hangs, is full or read-only: told so, and nothing is half there."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.clip import FrozenCLIP
from service.client import Client
from service.embedded.redis_server import RedisServer
from service.records.blobs import Blobs
from service.settings import Settings
from tests.support.api import Api, start_api
from tests.support.cluster import free_port
from tests.support.proxy import Mode, Proxy
from tests.support.random_adapters import add_version
from tests.support.waiting import wait_for
from training.data import Sample

GIVEN_UP_SECONDS = 25.0  # the object store's own limit is 20
_PUT_FOREVER = """
import itertools, sys
from service.records.blobs import Blobs
blobs = Blobs(sys.argv[1])
print("ready", flush=True)
for i in itertools.count():
    blobs.put(f"some/{i % 7}", bytes([i % 256]) * 3_000_000)
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an S3-protocol server with a bucket."""
    log = tmp_path_factory.mktemp("s3") / "moto.log"
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with log.open("wb") as stream:
        server = subprocess.Popen([sys.executable, "-c", code], stdout=stream, stderr=stream)

    def made() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            return httpx.put(f"http://127.0.0.1:{port}/bucket").is_success
        except httpx.HTTPError:
            return False

    wait_for(made)
    yield port
    server.kill()
    server.wait()


@pytest.fixture
def network(bucket: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What lies between the service and its store."""
    with Proxy([bucket]) as proxy:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT", proxy.url)
        yield proxy


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def api_on(blob_url: str, settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from start_api(settings.model_copy(update={"blob_url": blob_url}), clip)


@pytest.fixture
def remote(network: Proxy, settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from api_on(f"s3://bucket/{time.monotonic_ns()}", settings, clip)


@pytest.fixture
def local(disk: Path, settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from api_on((disk / "blobs").as_uri(), settings, clip)


class Prepared:
    """A tenant with a data set of one picture and an adapter that has answered."""

    def __init__(self, api: Api, clip: FrozenCLIP, samples: list[Sample]) -> None:
        self.client: Client = api.new_tenant()
        self.samples = samples
        add_version(api.components.records, clip, self.client.tenant, "things", 1)
        api.components.records.adapters.publish(self.client.tenant, "things", 1)
        self.dataset = self.client.create_dataset("photos")
        assert self.upload(samples[0]).is_success
        self.answer = self.classify()

    def upload(self, sample: Sample, padding: int = 0) -> httpx.Response:
        return self.client.http.post(
            f"/v1/datasets/{self.dataset}/images",
            data={"label": sample.label},
            files=[("files", (sample.name, sample.data + bytes(padding)))],
        )

    def classify(self) -> dict:
        photo = self.samples[0]
        return self.client.classify([(photo.name, photo.data)], None, "things")

    def labels(self) -> dict[str, int]:
        return self.client.call("GET", f"/v1/datasets/{self.dataset}")["labels"]

    def check_refused(self, response: httpx.Response) -> None:
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["detail"] == "the object store does not answer"
        assert self.classify() == self.answer


@pytest.mark.parametrize("mode", ["refuse", "hang", "cut"])
def test_a_store_that_is_away_refuses_uploads_and_nothing_else(
    mode: Mode, remote: Api, network: Proxy, clip: FrozenCLIP, samples: list[Sample]
) -> None:
    prepared = Prepared(remote, clip, samples)
    network.mode = mode
    started = time.monotonic()
    refused = prepared.upload(samples[1], padding=100_000)
    assert time.monotonic() - started < GIVEN_UP_SECONDS
    prepared.check_refused(refused)
    assert prepared.labels() == {"crab": 1}
    network.mode = "pass"
    assert prepared.upload(samples[1], padding=100_000).json()["labels"] == {"crab": 2}
    stored = remote.components.records.datasets.samples(prepared.client.tenant, prepared.dataset)
    assert len(list(stored)) == 2


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_no_more_refuses_uploads_and_nothing_else(
    fault: str, local: Api, disk: Path, clip: FrozenCLIP, samples: list[Sample]
) -> None:
    prepared = Prepared(local, clip, samples)
    if fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    prepared.check_refused(prepared.upload(samples[1], padding=2**21))
    assert prepared.labels() == {"crab": 1}
    if fault == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert not [path for path in disk.rglob("*") if "#" in path.name]  # half-written
    assert prepared.upload(samples[1]).json()["labels"] == {"crab": 2}


def test_a_killed_writer_leaves_no_blob_half_written(tmp_path: Path) -> None:
    """Each blob is one byte, many times: never shorter, never a mixture."""
    blobs = Blobs(tmp_path.as_uri())
    for round_ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", _PUT_FOREVER, tmp_path.as_uri()], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            time.sleep(0.05 + 0.013 * round_)
            writer.kill()
            writer.wait()
        for path in blobs.paths("some"):
            data = blobs.get(path)
            assert data == data[:1] * 3_000_000
    blobs.delete_all("some")
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "some"])


def test_a_redis_on_a_full_disk_loses_nothing_that_it_acknowledged(disk: Path) -> None:
    import redis

    server = RedisServer(disk / "redis")
    server.start()
    acknowledged = 0
    with redis.Redis.from_url(server.url, retry=None) as client:
        (disk / "filler").write_bytes(bytes(2**20))
        try:
            for i in range(3000):
                client.set(f"key{i}", hashlib.sha256(bytes([i % 256])).hexdigest() * 30)
                acknowledged += 1
        except redis.RedisError:
            pass
    assert 0 < acknowledged < 3000
    server.kill()
    (disk / "filler").unlink()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() >= acknowledged
        client.set("again", "written")
    server.stop()
