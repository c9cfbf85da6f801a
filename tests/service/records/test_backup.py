"""A backup brings all of it back into an empty deployment, or nothing."""

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from service.cli import app
from service.client import Client
from service.embedded import stopped
from service.embedded.redis_server import RedisServer
from service.errors import Conflict, Invalid, NewerFormat, NotFound
from service.records import Records, open_records
from service.records.backup import backup, restore_backup
from service.records.blobs import Blobs
from service.records.restore import restore
from service.settings import Settings
from service.wiring import records_of
from tests.support.api import Api, start_api, upload
from tests.support.random_adapters import manifest_of, random_weights
from training.data import Sample


def add_version(records: Records, clip: FrozenCLIP, tenant: str, number: int) -> None:
    manifest = manifest_of(clip, tenant=tenant, adapter="things", version=number)
    weights = random_weights(clip, number, rank=2)
    records.adapters.add(manifest, encode_artifact(Artifact(manifest, weights)))


@pytest.fixture
def empty(tmp_path: Path, server: RedisServer, settings: Settings) -> Settings:
    """An empty deployment beside the one of `server`: another database, another folder."""
    other = {
        "redis_url": server.url.replace("db=0", "db=1"),
        "blob_url": (tmp_path / "new").as_uri(),
    }
    return settings.model_copy(update=other)


@pytest.fixture
def records(server: RedisServer, settings: Settings, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "old").as_uri(), settings)


@pytest.fixture
def target(empty: Settings) -> Records:
    assert empty.redis_url and empty.blob_url
    return open_records(empty.redis_url, empty.blob_url, empty)


@pytest.fixture
def tenant(records: Records, clip: FrozenCLIP) -> str:
    """A tenant with a picture and a live version."""
    made = records.tenants.create("someone")[0].id
    dataset = records.datasets.create(made, "photos").id
    records.datasets.add(made, dataset, Sample("Küche/1", "x.jpg", b"a picture"))
    add_version(records, clip, made, 1)
    records.adapters.publish(made, "things", 1)
    return made


def contents(blobs: Blobs) -> dict[str, bytes]:
    return {path: blobs.get(path) for path in blobs.paths("")}


def command(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_same_key_gets_the_same_answer_bit_for_bit_from_a_restored_deployment(
    api_alone: Api,
    empty: Settings,
    clip: FrozenCLIP,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    client = api_alone.new_tenant()
    dataset = upload(client, samples[:2] + samples[-2:])
    add_version(api_alone.components.records, clip, client.tenant, 1)
    client.call("PUT", "/v1/adapters/things/live", json={"version": 1})
    photos = [(s.name, s.data) for s in samples[::40]]
    before = client.classify(photos, adapter="things")
    listed = client.call("GET", f"/v1/datasets/{dataset}")
    file = tmp_path / "all.tar"
    done = command(api_alone.components.settings, "backup", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    done = command(empty, "restore", str(file))
    assert done.returncode == 0, done.stderr
    key = client.http.headers["authorization"].removeprefix("Bearer ")
    for other in start_api(empty, clip):
        with Client(other.url, key) as again:
            assert again.classify(photos, adapter="things") == before
            assert again.call("GET", f"/v1/datasets/{dataset}") == listed
        blobs = api_alone.components.records.blobs, other.components.records.blobs
        assert contents(blobs[0]) == contents(blobs[1])


def test_an_adapter_file_that_cannot_be_read_keeps_nothing_else_back(
    records: Records,
    tenant: str,
    clip: FrozenCLIP,
    server: RedisServer,
    settings: Settings,
    tmp_path: Path,
) -> None:
    add_version(records, clip, tenant, 2)
    broken = records.adapters.version(tenant, "things", 2).path
    records.blobs.put(broken, b"no adapter")
    records.store.flushdb()
    urls = {"redis_url": server.url, "blob_url": (tmp_path / "old").as_uri()}
    done = command(settings.model_copy(update=urls), "restore")
    assert done.returncode == 1
    assert "restored 1 tenants" in done.stdout
    assert broken in done.stderr.replace("\n", "") and "left out" in done.stderr
    assert [v.number for v in records.adapters.get(tenant, "things").versions] == [1]
    assert records.adapters.version(tenant, "things").number == 1
    assert records.adapters.next_number(tenant, "things") == 3
    assert records.blobs.get(broken) == b"no adapter"


@pytest.mark.parametrize("used", ["Redis", "object store"])
def test_what_is_not_empty_is_refused_and_left_as_it_is(
    records: Records, target: Records, tenant: str, tmp_path: Path, used: str
) -> None:
    backup(records.blobs, tmp_path / "b.tar")
    target.tenants.create("there before")
    if used == "Redis":
        target.blobs.delete_all("tenants")
    else:
        target.store.flushdb()
    before = contents(target.blobs), sorted(target.store.scan_iter())
    with pytest.raises(Conflict, match=f"{used} is not empty"):
        restore_backup(target, tmp_path / "b.tar")
    assert (contents(target.blobs), sorted(target.store.scan_iter())) == before


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
@pytest.mark.parametrize("damage", ["short", "changed", "empty", "photo"])
def test_a_damaged_file_is_refused_and_nothing_is_written(
    records: Records, target: Records, tenant: str, tmp_path: Path, name: str, damage: str
) -> None:
    file = tmp_path / name
    backup(records.blobs, file)
    whole = file.read_bytes()
    end = len(whole) if name.endswith("gz") else whole.rindex(b"}")  # in a tar, zeros follow
    middle = whole.find(b"a picture") if name == "b.tar" else len(whole) // 2
    damaged = {
        "short": [whole[: end * part // 12] for part in range(1, 12 + (name == "b.tar"))],
        "changed": [whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]],
        "empty": [b""],
        "photo": [b"\xff\xd8\xff\xe0" * 1000],
    }[damage]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(Invalid):
            restore_backup(target, file)
    assert not contents(target.blobs)
    assert not list(target.store.scan_iter())


def rewritten(file: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """The same file with its entries changed."""
    with tarfile.open(file) as archive:
        entries = [(e, archive.extractfile(e).read()) for e in archive]
    change(entries)
    with tarfile.open(file, "w") as archive:
        for entry, data in entries:
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))


def hostile(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


PICTURE = f"tenants/tenant_1/datasets/dataset_1/images/{'0' * 16}/{'0' * 64}"


@pytest.mark.parametrize(
    "entry",
    [
        hostile("tenants/../../escaped"),
        hostile("/tmp/absolute"),
        hostile("tenants/tenant_1/adapters/../live.json"),
        hostile("tenants/tenant_1/adapters/%2e%2e/live.json"),
        hostile("tenants/tenant_1/tenant.json\n"),
        hostile("format.json"),
        hostile(PICTURE, tarfile.SYMTYPE),
        hostile(PICTURE, tarfile.LNKTYPE),
        hostile(PICTURE, tarfile.FIFOTYPE),
        hostile("tenants", tarfile.DIRTYPE),
    ],
    ids=lambda entry: f"{entry.name[:40]!r} {entry.type!r}",
)
def test_an_entry_that_no_backup_has_is_refused_and_nothing_is_written(
    records: Records, target: Records, tenant: str, tmp_path: Path, entry: tarfile.TarInfo
) -> None:
    file = tmp_path / "b.tar"
    backup(records.blobs, file)
    rewritten(file, lambda entries: entries.insert(1, (entry, b"x")))
    with pytest.raises(Invalid, match="entry"):
        restore_backup(target, file)
    assert not contents(target.blobs)


def test_a_backup_of_a_newer_format_is_refused(
    records: Records, target: Records, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    backup(records.blobs, file)
    rewritten(file, lambda entries: entries.__setitem__(0, (entries[0][0], b'{"format": 3}')))
    with pytest.raises(NewerFormat, match="format 3"):
        restore_backup(target, file)
    assert not contents(target.blobs)


def test_a_data_directory_with_a_redis_of_its_own_is_restored_before_up_runs_there(
    records: Records, tenant: str, settings: Settings, tmp_path: Path
) -> None:
    backup(records.blobs, tmp_path / "b.tar")
    alone = {"redis_url": None, "blob_url": None, "data_dir": tmp_path / "alone"}
    own = settings.model_copy(update=alone)
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "b.tar")], env=own.environment())
    assert done.exit_code == 0, done.output
    with stopped(own) as running:
        assert records_of(running).tenants.get(tenant).name == "someone"
        again = CliRunner().invoke(app, ["restore"], env=own.environment())
    assert again.exit_code == 1, "two Redis servers on one file would ruin it"


class Meanwhile(Blobs):
    """Something happens in the service just before the backup reads a blob whose path matches."""

    def __init__(self, url: str, end: str, happens: Callable[[], object]) -> None:
        super().__init__(url)
        self._end, self._happens = end, happens

    def get(self, path: str) -> bytes:
        if re.search(self._end, path) and self._happens:
            happens, self._happens = self._happens, lambda: None
            happens()
        return super().get(path)


@pytest.mark.parametrize(
    "end", [r"1\.safetensors$", r"/live/\d+\.json$", r"/images/.*\.json$", "tenant.json"]
)
def test_a_publish_and_a_deletion_meanwhile_leave_a_backup_that_is_whole(
    records: Records,
    target: Records,
    tenant: str,
    clip: FrozenCLIP,
    tmp_path: Path,
    end: str,
) -> None:
    def happens() -> None:
        add_version(records, clip, tenant, 2)
        records.adapters.publish(tenant, "things", 2)
        records.adapters.delete_version(tenant, "things", 1)
        dataset = records.datasets.create(tenant, "new").id
        records.datasets.add(tenant, dataset, Sample("new", "y.jpg", b"another"))

    backup(Meanwhile((tmp_path / "old").as_uri(), end, happens), tmp_path / "b.tar.gz")
    assert restore_backup(target, tmp_path / "b.tar.gz") == 1
    live = target.adapters.version(tenant, "things")
    assert live.number in (1, 2)
    assert len(target.blobs.get(live.path)) == live.bytes
    for dataset in target.datasets.page(tenant, 10, None).items:
        assert list(target.datasets.samples(tenant, dataset.id))


@pytest.mark.parametrize("end", [r"1\.safetensors$", r"/live/\d+\.json$", "dataset.json", "tenant"])
def test_a_tenant_that_is_erased_meanwhile_is_not_brought_back(
    records: Records, target: Records, tenant: str, tmp_path: Path, end: str
) -> None:
    blobs = Meanwhile((tmp_path / "old").as_uri(), end, lambda: records.tenants.erase(tenant))
    backup(blobs, tmp_path / "b.tar")
    assert restore_backup(target, tmp_path / "b.tar") == 0
    assert not target.tenants.page(10, None).items
    assert not [name for name in target.store.scan_iter() if tenant in name]


def test_a_tenant_whose_erasure_a_crash_cut_short_stays_erased(
    records: Records, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(prefix: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(records.blobs, "delete_all", crash)
        records.tenants.erase(tenant)
    records.store.flushdb()
    assert restore(records) == 0
    with pytest.raises(NotFound):
        records.tenants.get(tenant)


def test_a_backup_that_fails_leaves_the_earlier_one_and_no_other_file(
    records: Records, tenant: str, tmp_path: Path
) -> None:
    def breaks() -> None:
        raise RMAdapterError("the store is away")

    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "b.tar").write_bytes(b"the earlier one")
    with pytest.raises(RMAdapterError, match="away"):
        backup(Meanwhile((tmp_path / "old").as_uri(), "tenant.json", breaks), folder / "b.tar")
    assert [file.read_bytes() for file in folder.iterdir()] == [b"the earlier one"]
    assert backup(records.blobs, folder / "b.tar") == 6
    assert len(list(folder.iterdir())) == 1
