"""Losing Redis must not change a prediction."""

import os
import signal
import time

import httpx
import pytest

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from service.client import Client, ClientError
from service.embedded.redis_server import RedisServer
from service.records.restore import restore
from tests.support.api import Api
from tests.support.random_adapters import manifest_of, random_weights
from training.data import Sample


@pytest.fixture
def api(api_alone: Api) -> Api:
    return api_alone


@pytest.fixture
def tenant(api: Api, clip: FrozenCLIP) -> Client:
    """A tenant with two versions, the first live."""
    client = api.new_tenant()
    for number in (1, 2):
        manifest = manifest_of(clip, tenant=client.tenant, adapter="things", version=number)
        data = encode_artifact(Artifact(manifest, random_weights(clip, number)))
        api.components.records.adapters.add(manifest, data)
    api.components.records.adapters.publish(client.tenant, "things", 1)
    return client


def test_classify_goes_on_with_what_it_knows_and_writes_are_told_to_wait(
    api: Api, tenant: Client, server: RedisServer, samples: list[Sample]
) -> None:
    files = [(samples[0].name, samples[0].data)]
    before = tenant.classify(files, adapter="things")
    server.kill()
    assert tenant.classify(files, adapter="things") == before
    assert tenant.classify(files, ["a", "b"])["adapter"] is None
    with pytest.raises(ClientError) as unknown:
        tenant.classify(files, adapter="never-asked-for")
    assert unknown.value.status == 503
    response = tenant.http.post("/v1/datasets", json={"name": "x"})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["detail"] == "Redis does not answer"
    ready = httpx.get(f"{api.url}/readyz", timeout=10)
    assert (ready.status_code, ready.json()["redis"]) == (503, "no answer")
    server.start()
    tenant.create_dataset("afterwards")
    assert tenant.classify(files, adapter="things") == before
    assert httpx.get(f"{api.url}/readyz", timeout=10).status_code == 200


def test_an_emptied_redis_is_made_anew_and_predictions_are_the_same(
    api: Api, tenant: Client, samples: list[Sample]
) -> None:
    files = [(samples[0].name, samples[0].data)]
    dataset = tenant.create_dataset("photos")
    path = f"/v1/datasets/{dataset}/images"
    tenant.call("POST", path, data={"label": "crab"}, files=[("files", files[0])])
    tenant.call("PUT", "/v1/adapters/things/live", json={"version": 2})
    before = tenant.classify(files, adapter="things")
    listed = tenant.call("GET", "/v1/adapters/things")
    api.components.records.store.flushall()
    assert tenant.http.get("/v1/datasets").status_code == 401
    assert restore(api.components.records) == 1
    assert tenant.classify(files, adapter="things") == before
    assert tenant.call("GET", "/v1/adapters/things") == listed
    assert tenant.call("GET", f"/v1/datasets/{dataset}")["labels"] == {"crab": 1}
    assert api.components.records.adapters.next_number(tenant.tenant, "things") == 3


def test_a_broken_blob_is_an_error_never_another_answer(
    api: Api, tenant: Client, samples: list[Sample]
) -> None:
    """Promise 2: only leaving the adapter out means zero-shot."""
    version = api.components.records.adapters.version(tenant.tenant, "things", 2)
    data = bytearray(api.components.records.blobs.get(version.path))
    data[-1] ^= 1
    api.components.records.blobs.put(version.path, bytes(data))
    files = [("files", (samples[0].name, samples[0].data))]
    asked = {"adapter": "things", "version": "2"}
    response = tenant.http.post("/classify", data=asked, files=files)
    assert response.status_code == 500
    assert "was changed" in response.json()["detail"]
    api.components.records.blobs.delete(version.path)
    missing = tenant.http.post("/classify", data=asked, files=files)
    assert (missing.status_code, missing.json()["detail"]) == (
        500,
        "the file of things version 2 is missing",
    )
    assert tenant.http.post("/classify", data={"adapter": "things"}, files=files).is_success


def test_a_redis_that_hangs_costs_a_moment_once_and_changes_no_prediction(
    api: Api, tenant: Client, server: RedisServer, samples: list[Sample]
) -> None:
    files = [(samples[0].name, samples[0].data)]
    before = tenant.classify(files, adapter="things")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        first = seconds(lambda: tenant.classify(files, adapter="things"))
        later = [seconds(lambda: tenant.classify(files, adapter="things")) for _ in range(5)]
        assert tenant.classify(files, adapter="things") == before
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert first < 3  # each of the lookups may wait once
    assert sorted(later)[2] < 0.5
    time.sleep(1.2)
    tenant.create_dataset("afterwards")


def test_a_full_redis_refuses_changes_takes_deletions_and_classifies(
    api: Api, tenant: Client, server: RedisServer, samples: list[Sample]
) -> None:
    files = [(samples[0].name, samples[0].data)]
    dataset = tenant.create_dataset("to be deleted")
    path = f"/v1/datasets/{dataset}/images"
    tenant.call("POST", path, data={"label": "crab"}, files=[("files", files[0])])
    (image,) = tenant.call("GET", path)["items"]
    before = tenant.classify(files, adapter="things")
    api.components.records.store.config_set("maxmemory", "1mb")
    try:
        assert tenant.classify(files, adapter="things") == before
        refused = tenant.http.post("/v1/datasets", json={"name": "one more"})
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert httpx.get(f"{api.url}/readyz", timeout=10).json()["redis"] == "cannot write"
        assert tenant.http.delete(f"{path}/{image['image']}").status_code == 204
        assert tenant.http.delete(f"/v1/datasets/{dataset}").status_code == 204
    finally:
        api.components.records.store.config_set("maxmemory", "0")
    assert not [p for p in api.components.records.blobs.paths("tenants") if dataset in p]


def seconds(call) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started
