"""The object store as a folder: its address is decoded, and a folder of earlier releases found."""

from pathlib import Path

import pytest

from service.records.blobs import Blobs
from service.settings import Settings
from service.wiring import records_of


@pytest.mark.parametrize("name", ["My Data é", "plain", "100%", "a+b#c"])
def test_a_data_directory_of_any_name_holds_its_blobs(tmp_path: Path, name: str) -> None:
    records_of(Settings(data_dir=tmp_path / name)).blobs.put("tenants/a", b"1")
    assert (tmp_path / name / "blobs" / "tenants" / "a").read_bytes() == b"1"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_what_an_earlier_release_put_into_an_encoded_folder_is_found(tmp_path: Path) -> None:
    before = tmp_path / "My%20Data" / "blobs" / "tenants"
    before.mkdir(parents=True)
    (before / "a").write_bytes(b"1")
    (tmp_path / "My Data").mkdir()  # Redis and the keys were in the right folder
    blobs = Blobs((tmp_path / "My Data" / "blobs").as_uri())
    assert blobs.get("tenants/a") == b"1"
