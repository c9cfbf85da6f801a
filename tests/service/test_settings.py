"""Settings come from variables and files, and the example names each of them."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from service.records.blobs import Blobs
from service.settings import Settings
from tests.support.compose import MAIN, load
from tests.support.paths import ROOT

EXAMPLE = ROOT / "docker" / ".env.example"
LINE = re.compile(r"^#?(\w+)=(.*)$", re.MULTILINE)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RMADAPTER_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_secret_is_read_from_the_file_of_its_name(secrets: Path) -> None:
    (secrets / "rmadapter_admin_key").write_text("from a file, of enough characters\n")
    assert Settings().admin_key.get_secret_value() == "from a file, of enough characters"


def test_a_variable_goes_before_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "rmadapter_admin_key").write_text("from a file, of enough characters")
    monkeypatch.setenv("RMADAPTER_ADMIN_KEY", "from a variable, of enough characters")
    assert Settings().admin_key.get_secret_value() == "from a variable, of enough characters"


def test_no_folder_of_secrets_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMADAPTER_SECRETS_DIR", "/no/such/folder")
    assert Settings().redis_password is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host:1/2", "redis://:a%2Fb%20%25@host:1/2"),
        ("rediss://user@host", "rediss://user:a%2Fb%20%25@host"),
        ("redis://:own@host", "redis://:own@host"),
        ("unix:///a/b.sock?db=0", "unix:///a/b.sock?db=0"),
        (None, "redis://:a%2Fb%20%25@default"),
    ],
)
def test_the_password_goes_into_an_address_that_has_none(url: str | None, address: str) -> None:
    settings = Settings(redis_url=url, redis_password="a/b %")
    assert settings.redis_address("redis://default") == address


def test_the_key_of_the_object_store_is_both_parts_or_none() -> None:
    assert Settings(s3_access_key_id="id").s3_keys() is None
    assert Settings(s3_access_key_id="id", s3_secret_access_key="").s3_keys() is None
    keys = Settings(s3_access_key_id="id", s3_secret_access_key="key").s3_keys()
    assert Blobs("s3://bucket/prefix", keys)._store.config["access_key_id"] == "id"


SECRET = {n for n, f in Settings.model_fields.items() if SecretStr in get_args(f.annotation)}


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - SECRET - {"host"}))
def test_the_example_has_every_setting_at_its_default_or_that_of_compose(name: str) -> None:
    variable = f"RMADAPTER_{name.upper()}"
    default = Settings.model_fields[name].default
    given = {"RMADAPTER_CACHE_DIR": "/data/cache"}  # the image's
    given |= load(MAIN)["services"]["api"]["environment"]
    shown = "" if default is None else str(default).replace(str(Path.home()), "~")
    assert dict(LINE.findall(EXAMPLE.read_text()))[variable] == given.get(variable, shown)


def test_the_example_has_no_secret_but_says_where_each_lies() -> None:
    text = EXAMPLE.read_text()
    for name in SECRET:
        assert f"#   rmadapter_{name}\n" in text
        assert f"RMADAPTER_{name.upper()}=" not in text


def test_the_example_names_no_setting_that_there_is_not() -> None:
    composes = set(re.findall(r"\$\{(\w+)", MAIN.read_text()))
    known = {f"RMADAPTER_{name.upper()}" for name in Settings.model_fields} | composes
    assert {name for name, _ in LINE.findall(EXAMPLE.read_text())} <= known


def test_files_that_are_links_into_the_folder_are_read(secrets: Path) -> None:
    """As Kubernetes mounts a Secret."""
    (secrets / "..2026").mkdir()
    (secrets / "..2026" / "rmadapter_redis_url").write_text("redis://host")
    (secrets / "..data").symlink_to("..2026")
    (secrets / "rmadapter_redis_url").symlink_to("..data/rmadapter_redis_url")
    assert Settings().redis_url == "redis://host"
