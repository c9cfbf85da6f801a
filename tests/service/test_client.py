"""Both clients do the same calls against a real server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from service.client import AsyncClient, Client, ClientError
from service.demo.__main__ import PHOTOS
from tests.support.api import Api
from training.data import Sample


class Waiting:
    """AsyncClient, called as Client is."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

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
    if request.param == "sync":
        with Client(api.url, key) as made:
            yield made
        return
    with asyncio.Runner() as runner:
        made = AsyncClient(api.url, key)
        yield Waiting(made, runner)
        runner.run(made.__aexit__())


def test_data_sets_are_made_filled_and_listed_in_pages(client, tmp_path: Path) -> None:
    made = [client.create_dataset(f"set {n}") for n in range(3)]
    assert [d["dataset"] for d in client.pages("/v1/datasets", limit=2)] == made
    files = sorted((PHOTOS / "crab").iterdir())[:3]
    answers = list(client.upload_class(made[0], "crab", files))
    assert [answer["accepted"] for answer in answers] == [3]
    import zipfile

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
