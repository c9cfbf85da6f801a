"""`rmadapter doctor --orphans`: what earlier releases left is found, told, and mended."""

import json
from pathlib import Path

import pytest

from adapters.clip import FrozenCLIP
from service.embedded.redis_server import RedisServer
from service.records import Records, open_records
from service.records.orphans import mend, orphans
from service.records.store import UNNAMED
from service.settings import Settings
from tests.support.random_adapters import add_version
from training.data import Sample


@pytest.fixture
def records(settings: Settings, server: RedisServer, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "blobs").as_uri(), settings)


@pytest.fixture
def tenant(records: Records, clip: FrozenCLIP) -> str:
    made = records.tenants.create("someone")[0].id
    dataset = records.datasets.create(made, "photos").id
    for number in range(3):
        records.datasets.add(made, dataset, Sample("cat", f"{number}.jpg", b"%d" % number))
    for number in (1, 2):
        add_version(records, clip, made, "things", number)
    records.adapters.publish(made, "things", 2)
    return made


def test_nothing_is_found_where_the_stores_agree(records: Records, tenant: str) -> None:
    assert list(orphans(records)) == []


def test_files_without_records_and_records_without_files_are_found_and_mended(
    records: Records, tenant: str
) -> None:
    (dataset,) = records.datasets.page(tenant, 10, None).items
    digest, paths = next(iter(records.datasets.files(tenant, dataset.id)))
    records.blobs.delete(paths[0])
    version = records.adapters.version(tenant, "things", 2)
    records.blobs.delete(version.path)
    left = f"tenants/{tenant}/datasets/dataset_gone/images/{'0' * 16}/{'0' * 64}"
    records.blobs.put(left, b"a picture that was deleted")
    found = list(orphans(records))
    assert {(one.kind, one.item) for one in found} == {
        ("file", ""),
        ("picture", digest),
        ("version", "2"),
    }
    mend(records, found)
    for path in records.store.zrange(UNNAMED, 0, -1):
        records.store.zadd(UNNAMED, {path: 0})
    records.deletion.sweep()
    assert list(orphans(records)) == []
    assert records.datasets.get(tenant, dataset.id).labels == {"cat": 2}
    adapter = records.adapters.get(tenant, "things")
    assert adapter.live is None and [v.number for v in adapter.versions] == [1]


def test_what_is_being_written_is_no_orphan(records: Records, tenant: str) -> None:
    path = f"tenants/{tenant}/datasets/dataset_1/dataset.json"
    records.store.zadd(UNNAMED, {path: 4e9})
    records.blobs.put(path, json.dumps({}).encode())
    assert list(orphans(records)) == []
