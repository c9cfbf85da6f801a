"""`rmadapter up` on records that are there already."""

import os
import stat
from pathlib import Path

import pytest

from service.embedded import ensure_default_tenant, stopped
from service.embedded.redis_server import RedisServer
from service.records import Records, open_records
from service.settings import Settings


@pytest.fixture
def records(settings: Settings, server: RedisServer, tmp_path: Path) -> Records:
    return open_records(server.url, (tmp_path / "blobs").as_uri(), settings)


def key_of(records: Records, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    ensure_default_tenant(records, folder)
    return (folder / "default.key").read_text().strip()


def test_a_second_machine_leaves_the_first_ones_key_as_it_is(
    records: Records, tmp_path: Path
) -> None:
    first = key_of(records, tmp_path / "first")
    second = key_of(records, tmp_path / "second")
    grants = {records.tenants.authenticate(one) for one in (first, second)}
    assert first != second
    assert len(grants) == 1
    assert key_of(records, tmp_path / "first") == first


def test_a_data_directory_that_was_there_before_is_made_private(tmp_path: Path) -> None:
    folder, before = tmp_path / "data", os.umask(0o022)
    folder.mkdir(mode=0o755)
    try:
        with stopped(Settings().model_copy(update={"data_dir": folder, "redis_url": None})):
            (folder / "made").write_text("something")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "made").stat().st_mode) == 0o600
