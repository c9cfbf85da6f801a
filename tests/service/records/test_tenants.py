"""What is erased stays erased, whatever is done to it at the same time."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.artifact import Artifact, Manifest, encode_artifact
from adapters.clip import FrozenCLIP
from service.client import Client
from service.embedded.redis_server import RedisServer
from service.errors import Conflict, NotFound, OverQuota, Unauthorized, Unavailable
from service.records import Records, open_records
from service.records.restore import restore
from service.records.tenants import read_manifest
from service.settings import Settings
from tests.support.api import Api
from tests.support.random_adapters import manifest_of, random_weights


def artifact(clip: FrozenCLIP, tenant: str, adapter: str, number: int) -> tuple[Manifest, bytes]:
    manifest = manifest_of(clip, tenant=tenant, adapter=adapter, version=number)
    return manifest, encode_artifact(Artifact(manifest, random_weights(clip, number)))


@pytest.fixture
def records(settings: Settings, server: RedisServer, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "blobs").as_uri(), settings)


def at_once(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_key_that_is_made_during_an_erasure_opens_the_tenant(records: Records) -> None:
    for _ in range(10):
        tenant, first = records.tenants.create("erased")
        keys = [first]

        def make(tenant_id: str = tenant.id, keys: list[str] = keys) -> None:
            for _ in range(20):
                try:
                    keys.append(records.tenants.add_key(tenant_id, "manage")[1])
                except NotFound:
                    return

        at_once(make, make, lambda tenant_id=tenant.id: records.tenants.erase(tenant_id))
        for key in keys:
            with pytest.raises(Unauthorized):
                records.tenants.authenticate(key)
        assert not records.tenants.page(100, None).items
        assert not list(records.blobs.paths("tenants"))


def test_a_key_whose_tenant_does_not_name_it_opens_nothing(records: Records) -> None:
    _, key = records.tenants.create("left over")
    records.store.delete("rmadapter:tenant-names")
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(key)


def test_an_erased_tenant_is_not_written_again(records: Records) -> None:
    tenant, _ = records.tenants.create("erased")
    records.tenants.erase(tenant.id)
    with pytest.raises(NotFound):
        records.tenants.add_key(tenant.id, "manage")
    assert not list(records.blobs.paths("tenants"))


def test_restore_leaves_an_erased_tenant_out(records: Records) -> None:
    tenant, _ = records.tenants.create("erased")
    path = f"tenants/{tenant.id}/tenant.json"
    manifest = records.blobs.get(path)
    records.tenants.erase(tenant.id)
    records.blobs.put(path, manifest)  # as a fault or an old copy leaves it
    said: list[tuple[str, str]] = []
    assert restore(records, lambda *what: said.append(what)) == 0
    assert said == [(path, "the tenant was erased")]
    assert read_manifest(manifest).id not in str(records.tenants.page(100, None).items)


def test_what_is_written_during_an_erasure_is_swept(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.tenants.SWEEP_AFTER", 0.0)
    tenant, _ = records.tenants.create("erased")
    records.tenants.erase(tenant.id)
    with pytest.raises(NotFound):
        records.datasets.create(tenant.id, "written late")
    records.blobs.put(f"tenants/{tenant.id}/datasets/late/dataset.json", b"{}")
    records.tenants.sweep()
    records.deletion.sweep()
    assert not [name for name in records.store.scan_iter() if f":{tenant.id}:" in name]
    assert not list(records.blobs.paths("tenants"))


def test_an_erasure_that_a_fault_cut_short_is_ended_by_the_sweep(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.deletion.AGAIN_SECONDS", 0)
    tenant, key = records.tenants.create("erased")
    with monkeypatch.context() as patched:

        def away(prefix: str) -> None:
            raise Unavailable("the object store is away")

        patched.setattr(records.blobs, "delete_all", away)
        records.tenants.erase(tenant.id)
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(key)
    records.deletion.sweep()
    assert not list(records.blobs.paths("tenants"))


def test_an_adapter_deleted_while_it_is_published_leaves_no_live_pointer(
    records: Records, clip
) -> None:
    tenant, _ = records.tenants.create("t")
    for _ in range(10):
        number = records.adapters.next_number(tenant.id, "things")
        records.adapters.add(*artifact(clip, tenant.id, "things", number))

        def publish(number: int = number) -> None:
            try:
                records.adapters.publish(tenant.id, "things", number)
            except NotFound:
                return

        at_once(publish, publish, lambda: records.adapters.delete(tenant.id, "things"))
        with pytest.raises((NotFound, Conflict)):
            records.adapters.version(tenant.id, "things")
        assert not list(records.blobs.paths(f"tenants/{tenant.id}/adapters"))


def test_a_name_with_a_live_pointer_to_nothing_can_be_published_again(
    records: Records, clip
) -> None:
    tenant, _ = records.tenants.create("t")
    number = records.adapters.next_number(tenant.id, "things")
    records.adapters.add(*artifact(clip, tenant.id, "things", number))
    records.store.hset(f"rmadapter:tenant:{tenant.id}:adapter:things", "live", "99")
    assert records.adapters.publish(tenant.id, "things", number)
    assert records.adapters.version(tenant.id, "things").number == number


def test_a_list_is_whole_while_an_item_of_it_goes(records: Records) -> None:
    tenant, _ = records.tenants.create("t")
    kept = records.datasets.create(tenant.id, "kept")
    gone = records.datasets.create(tenant.id, "gone")
    records.store.delete(f"rmadapter:tenant:{tenant.id}:dataset:{gone.id}")  # between two steps
    assert [d.id for d in records.datasets.page(tenant.id, 10, None).items] == [kept.id]


@pytest.mark.parametrize("command", [("maxmemory", "1"), ("min-replicas-to-write", "1")], ids=str)
def test_a_redis_that_cannot_write_is_told_and_classify_goes_on(
    api_alone: Api, command: tuple[str, str], samples
) -> None:
    client: Client = api_alone.new_tenant()
    photo = [("a.jpg", samples[0].data)]
    before = client.classify(photo, ["crab", "lotus"])
    store = api_alone.components.records.store
    was = store.config_get(command[0])[command[0]]
    store.config_set(*command)
    try:
        ready = client.http.get("/readyz")
        assert (ready.status_code, ready.json()["redis"]) == (503, "cannot write")
        assert client.classify(photo, ["crab", "lotus"]) == before
        made = client.http.post("/v1/datasets", json={"name": "more"})
        assert made.status_code == 503
        assert int(made.headers["retry-after"]) > 0
    finally:
        store.config_set(command[0], was)
    assert client.http.get("/readyz").status_code == 200


def test_data_sets_made_at_once_stay_within_the_quota(records: Records) -> None:
    records.datasets.quota = replace(records.datasets.quota, datasets=3)
    tenant, _ = records.tenants.create("t")

    def make() -> None:
        with suppress(OverQuota):
            records.datasets.create(tenant.id, "one more")

    at_once(*[make] * 12)
    assert len(records.datasets.page(tenant.id, 100, None).items) == 3


@pytest.mark.parametrize("tail", [":labels", ":bytes", ":images", "*", "%20", "\u2028", "é"])
@pytest.mark.parametrize("path", ["/v1/datasets/{}", "/v1/jobs/{}", "/v1/jobs/{}/events"])
def test_an_id_that_would_lead_to_another_key_is_not_found(api: Api, path: str, tail: str) -> None:
    client = api.new_tenant()
    dataset = client.create_dataset("mine")
    assert client.http.get(path.format(dataset + tail)).status_code == 404
