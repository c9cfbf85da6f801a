"""Kept features: they go with their photos, and no backup has them."""

from pathlib import Path

import pytest

from service.embedded.redis_server import RedisServer
from service.errors import NotFound
from service.records import Records, open_records
from service.records.backup import backup, restore_backup
from service.records.features import PhotoFile, feature_path, features_folder
from service.records.orphans import orphans
from service.records.restore import restore
from service.settings import Settings
from training.data import Sample

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def records(settings: Settings, server: RedisServer, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "blobs").as_uri(), settings)


@pytest.fixture
def tenant(records: Records) -> str:
    return records.tenants.create("someone")[0].id


@pytest.fixture
def dataset(records: Records, tenant: str) -> str:
    made = records.datasets.create(tenant, "photos").id
    for number in range(3):
        records.datasets.add(tenant, made, Sample("cat", f"{number}.jpg", b"%d" % number))
    return made


def files_of(records: Records, tenant: str, dataset: str) -> list[PhotoFile]:
    listed = records.datasets.listing(tenant, dataset)
    return [PhotoFile(one.image.digest, one.file) for one in listed]


@pytest.fixture
def files(records: Records, tenant: str, dataset: str) -> list[PhotoFile]:
    """The photos, whose features are kept for two CLIPs."""
    found = files_of(records, tenant, dataset)
    for key in (KEY, OTHER_KEY):
        records.features.keep(tenant, dataset, key, {f: f.digest.encode() for f in found})
    return found


def stored(records: Records, tenant: str, dataset: str) -> set[str]:
    return set(records.blobs.paths(features_folder(tenant, dataset)))


def test_kept_features_are_read_by_the_photos_digest(
    records: Records, tenant: str, dataset: str, files: list[PhotoFile]
) -> None:
    expected = {file.digest: file.digest.encode() for file in files}
    assert records.features.read(tenant, dataset, KEY, files) == expected
    assert records.features.read(tenant, dataset, "another", files) == {}
    assert list(orphans(records)) == []


def test_a_deleted_photo_takes_its_features_along(
    records: Records, tenant: str, dataset: str, files: list[PhotoFile]
) -> None:
    records.datasets.remove(tenant, dataset, files[0].digest)
    left = {feature_path(tenant, dataset, k, f.file) for k in (KEY, OTHER_KEY) for f in files[1:]}
    assert stored(records, tenant, dataset) == left


def test_a_moved_photo_keeps_its_feature(
    records: Records, tenant: str, dataset: str, files: list[PhotoFile]
) -> None:
    records.datasets.move(tenant, dataset, files[0].digest, "dog")
    now = files_of(records, tenant, dataset)
    assert len(records.features.read(tenant, dataset, KEY, now)) == 3


def test_the_feature_of_a_photo_that_was_deleted_meanwhile_is_not_kept(
    records: Records, tenant: str, dataset: str
) -> None:
    found = files_of(records, tenant, dataset)
    records.datasets.remove(tenant, dataset, found[0].digest)
    records.features.keep(tenant, dataset, KEY, dict.fromkeys(found, b"feature"))
    assert len(stored(records, tenant, dataset)) == 2
    records.datasets.delete(tenant, dataset)
    records.features.keep(tenant, dataset, KEY, dict.fromkeys(found, b"feature"))
    assert stored(records, tenant, dataset) == set()


@pytest.mark.parametrize("what", ["data set", "tenant"])
def test_a_deleted_data_set_or_tenant_takes_all_features_along(
    records: Records, tenant: str, dataset: str, files: list[PhotoFile], what: str
) -> None:
    if what == "data set":
        records.datasets.delete(tenant, dataset)
    else:
        records.tenants.erase(tenant)
    assert stored(records, tenant, dataset) == set()
    if what == "tenant":
        with pytest.raises(NotFound):
            records.features.keep(tenant, dataset, KEY, {files[0]: b"feature"})


def test_after_a_restore_the_features_are_known_and_go_with_their_photos(
    records: Records, tenant: str, dataset: str, files: list[PhotoFile]
) -> None:
    records.store.flushdb()
    restore(records)
    assert len(records.features.read(tenant, dataset, KEY, files)) == 3
    records.datasets.remove(tenant, dataset, files[0].digest)
    assert len(stored(records, tenant, dataset)) == 4
    assert list(orphans(records)) == []


def test_a_backup_leaves_the_features_out(
    records: Records,
    tenant: str,
    dataset: str,
    files: list[PhotoFile],
    tmp_path: Path,
    server: RedisServer,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = backup(records.blobs, tmp_path / "backup.tar")
    assert count == len(set(records.blobs.paths("tenants"))) - 6
    assert "left out" not in caplog.text
    records.store.flushdb()
    target = open_records(server.url, (tmp_path / "other").as_uri(), settings)
    restore_backup(target, tmp_path / "backup.tar")
    assert target.features.read(tenant, dataset, KEY, files) == {}
    assert target.datasets.get(tenant, dataset).labels == {"cat": 3}
