"""Both clients do the same calls against a real server."""

import asyncio
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.clip import FrozenCLIP
from service.client import AsyncClient, Client, ClientError
from service.demo.__main__ import PHOTOS
from service.settings import Settings
from tests.support.api import Api, start_api
from training.data import Sample


class Waiting:
    """AsyncClient, called as Client is."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*arguments: object, **options: object) -> Any:
            made = method(*arguments, **options)
            if hasattr(made, "__aiter__"):

                async def whole() -> list:
                    return [item async for item in made]

                return self._runner.run(whole())
            return self._runner.run(made)

        return call


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, api: Api):
    key = api.new_tenant().http.headers["authorization"].split()[1]
    yield from _clients(request.param, api.url, key)


def _clients(kind: str, url: str, key: str, **options: Any) -> Iterator[Client | Waiting]:
    if kind == "sync":
        with Client(url, key, **options) as made:
            yield made
        return
    with asyncio.Runner() as runner:
        asynchronous = AsyncClient(url, key, **options)
        yield Waiting(asynchronous, runner)
        runner.run(asynchronous.__aexit__())


def test_data_sets_are_made_filled_and_listed_in_pages(client, tmp_path: Path) -> None:
    made = [client.create_dataset(f"set {n}") for n in range(3)]
    assert [d["dataset"] for d in client.pages("/v1/datasets", limit=2)] == made
    files = sorted((PHOTOS / "crab").iterdir())[:3]
    answers = list(client.upload_class(made[0], "crab", files))
    assert [answer["accepted"] for answer in answers] == [3]
    archive = tmp_path / "lotus.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted((PHOTOS / "lotus").iterdir())[:2]:
            stream.write(file, f"lotus/{file.name}")
    assert client.upload_archive(made[0], archive)["labels"] == {"crab": 3, "lotus": 2}
    job = client.create_job(made[0], "things", publish=False)
    assert client.call("DELETE", f"/v1/jobs/{job['job']}")["state"] == "cancelled"
    assert [e["state"] for e in client.job_events(job["job"])] == ["cancelled"]


def test_pictures_and_texts_are_classified_and_embedded(client, samples: list[Sample]) -> None:
    files = [(s.name, s.data) for s in samples[:2]]
    answer = client.classify(files, ["crab", "lotus"], top_k=1, template=["a {}.", "the {}."])
    assert [len(result["predictions"]) for result in answer["results"]] == [1, 1]
    assert len(client.embeddings(["a crab", "a cup"])["data"]) == 2


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        (lambda c: c.publish("nowhere", 1), 404, "nowhere"),
        (lambda c: c.classify([("a", b"x")]), 422, "classes: required"),
        (lambda c: list(c.job_events("job_1")), 404, "job_1"),
        (lambda c: c.call("GET", "/v1/tenants"), 403, "admin"),
    ],
)
def test_a_refusal_is_an_error_in_the_services_own_words(client, call, status, says) -> None:
    with pytest.raises(ClientError, match=says) as refused:
        call(client)
    assert refused.value.status == status


def test_a_service_that_is_not_there_is_told_at_once() -> None:
    with Client("http://127.0.0.1:9", "rma_x") as client, pytest.raises(ClientError) as refused:
        client.call("GET", "/v1/adapters")
    assert refused.value.status == 0
    assert "rmadapter up" in str(refused.value)


@pytest.fixture(params=["sync", "async"])
def hurried(request: pytest.FixtureRequest, settings: Settings, clip: FrozenCLIP, server, tmp_path):
    """A client of a service that takes one call a second of each kind, and how often it asks."""
    own = {"redis_url": server.url, "blob_url": (tmp_path / "blobs").as_uri()}
    rates = dict.fromkeys(("classify_rate", "classify_burst", "manage_rate", "manage_burst"), 1)
    limits = rates | {"max_tenant_datasets": 1}
    serving = contextmanager(start_api)
    with serving(settings.model_copy(update=own | limits), clip) as api:
        key = api.new_tenant().http.headers["authorization"].split()[1]
        yield from _clients(request.param, api.url, key)


def _statuses(client) -> list[int]:
    """Of every answer from here on."""
    seen: list[int] = []

    def note(response: httpx.Response) -> None:
        seen.append(response.status_code)

    async def note_async(response: httpx.Response) -> None:
        note(response)

    one = isinstance(client.http, httpx.Client)
    client.http.event_hooks["response"] = [note if one else note_async]
    return seen


def test_a_busy_service_is_asked_again_when_it_says(hurried, tmp_path: Path) -> None:
    seen, started = _statuses(hurried), time.monotonic()
    dataset = hurried.create_dataset("one")
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted((PHOTOS / "lotus").iterdir())[:2]:
            stream.write(file, f"lotus/{file.name}")
    assert hurried.upload_archive(dataset, archive)["labels"] == {"lotus": 2}  # sent twice, whole
    assert seen == [201, 429, 200]
    assert time.monotonic() - started > 0.9


def test_what_would_take_too_long_is_an_error_at_once(hurried) -> None:
    hurried.create_dataset("one")
    time.sleep(1.1)
    seen, started = _statuses(hurried), time.monotonic()
    with pytest.raises(ClientError, match="quota") as refused:
        hurried.create_dataset("two")
    assert (refused.value.status, seen) == (429, [429])
    assert refused.value.retry_after == 3600
    assert time.monotonic() - started < 5


def test_what_may_have_been_done_is_not_done_again(hurried, server) -> None:
    """Redis is away: a question is asked again, what makes something is not."""
    server.stop()
    seen = _statuses(hurried)
    getattr(hurried, "_client", hurried).wait_seconds = 3
    for ask in (lambda: hurried.create_dataset("one"), lambda: hurried.call("GET", "/v1/adapters")):
        with pytest.raises(ClientError) as refused:
            ask()
        assert refused.value.status == 503
    assert seen[0] == 503 and len(seen) > 2
