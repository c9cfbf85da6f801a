"""What an earlier release stored is read; what a newer one did is refused, and stays as it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import httpx
import pytest
from typer.testing import CliRunner

from adapters.clip import FrozenCLIP
from service.cli import app
from service.client import Client
from service.demo.__main__ import PHOTOS
from service.embedded.redis_server import RedisServer
from service.errors import NewerFormat
from service.records import open_records
from service.records.formats import BLOB
from service.records.restore import restore
from service.records.store import FORMAT_KEY
from service.settings import Settings
from service.wiring import broker_of, records_of
from tests.fixtures.records import EMBEDDINGS, dump, load
from tests.support.api import start_api
from tests.support.paths import ROOT
from training.jobs import QUEUE, FitJob

FORMAT_1 = ROOT / "tests" / "fixtures" / "format-1"
ANSWER = json.loads((FORMAT_1 / "answer.json").read_text())


@pytest.fixture
def stored(server: RedisServer, settings: Settings, tmp_path: Path) -> Settings:
    """The settings of a deployment whose data format 1 wrote."""
    copytree(FORMAT_1 / "blobs", tmp_path / "blobs")
    changes = {"redis_url": server.url, "blob_url": (tmp_path / "blobs").as_uri()}
    made = settings.model_copy(update=changes)
    records = json.loads((FORMAT_1 / "records.json").read_text())
    load(open_records(made.redis_url, made.blob_url, made).store, records)
    return made


def files_of(settings: Settings) -> dict[str, bytes]:
    folder = Path(settings.blob_url.removeprefix("file://"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("way", ["as it was", "before formats were written", "restored"])
def test_format_1_is_read_and_answers_as_it_did(
    stored: Settings, clip: FrozenCLIP, way: str
) -> None:
    records = open_records(stored.redis_url, stored.blob_url, stored)
    if way == "before formats were written":
        records.store.delete(FORMAT_KEY)
        records.blobs.delete(BLOB)
    if way == "restored":
        records.store.flushall()
        assert restore(records) == 1
    for api in start_api(stored, clip):
        with Client(api.url, ANSWER["key"], wait_seconds=0) as client:
            photos = [
                (name.split("/")[1], (PHOTOS / name).read_bytes()) for name in ANSWER["files"]
            ]
            answer = client.classify(photos, adapter="things")
            features = client.call("POST", "/v1/embeddings", json=EMBEDDINGS)
            labels = client.call("GET", f"/v1/datasets/{ANSWER['dataset']}")["labels"]
    assert sorted(labels.values()) == [3, 3]
    assert features["data"][0]["embedding"] == pytest.approx(ANSWER["embedding"], abs=1e-4)
    for name in ("model", "adapter", "version", "artifact_sha256"):
        assert answer[name] == ANSWER["answer"][name]
    for now, then in zip(answer["results"], ANSWER["answer"]["results"], strict=True):
        assert now["label"] == then["label"]
        scores = [p["score"] for p in then["predictions"]]
        assert [p["score"] for p in now["predictions"]] == pytest.approx(scores, abs=1e-3)


@pytest.fixture(params=["Redis", "object store"])
def newer(stored: Settings, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """The same after a newer release has changed its format; nothing in it changes any more."""
    records = open_records(stored.redis_url, stored.blob_url, stored)
    store = broker_of(stored).client  # connected before, and so let in
    store.ping()
    records.store.ping()
    broker_of(stored).enqueue(FitJob("tenant_1", "job_1").to_message())
    if request.param == "Redis":
        records.store.set(FORMAT_KEY, "3")
    else:
        records.blobs.put(BLOB, b'{"format": 3}')
    before = dump(records.store), files_of(stored), store.lrange(f"dramatiq:{QUEUE}", 0, -1)
    yield stored
    assert before[2], "a job waits in the queue"
    after = dump(records.store), files_of(stored), store.lrange(f"dramatiq:{QUEUE}", 0, -1)
    assert after == before


@pytest.mark.parametrize("command", ["serve", "worker", "restore"])
def test_no_command_starts_on_a_newer_format(newer: Settings, command: str) -> None:
    done = CliRunner().invoke(app, [command], env=newer.environment())
    assert done.exit_code == 1
    with pytest.raises(NewerFormat, match="has format 3, this release reads up to 2"):
        records_of(newer).refuse_newer()


def test_a_server_that_ran_before_the_upgrade_writes_nothing_after_it(
    stored: Settings, clip: FrozenCLIP
) -> None:
    records = open_records(stored.redis_url, stored.blob_url, stored)
    for api in start_api(stored, clip):
        with Client(api.url, ANSWER["key"], wait_seconds=0) as client:
            client.create_dataset("before")
            records.store.set(FORMAT_KEY, "3")
            before = dump(records.store)
            api.components.records.store.connection_pool.disconnect()  # as Redis's restart does
            answer = client.http.post("/v1/datasets", json={"name": "after"})
            ready = httpx.get(f"{api.url}/readyz", timeout=10)
    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "a newer release wrote it" in answer.json()["detail"]
    assert dump(records.store) == before


@pytest.mark.parametrize("found", ["0", "-1", "3", "x", "1.5", ""])
def test_a_format_that_is_not_known_is_refused(stored: Settings, found: str) -> None:
    writer = open_records(stored.redis_url, stored.blob_url, stored)
    writer.store.set(FORMAT_KEY, found)
    with pytest.raises(NewerFormat, match="Redis has format"):
        open_records(stored.redis_url, stored.blob_url, stored).refuse_newer()
    for manifest in (f'{{"format": "{found}"}}', "[]", "", "{}"):
        writer.blobs.put(BLOB, manifest.encode())
        with pytest.raises(NewerFormat, match="object store has format"):
            restore(writer)
