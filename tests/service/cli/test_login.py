"""`rmadapter login`: which service and key a command takes, and where they are kept."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import Client
from tests.support.api import ADMIN_KEY, Api


@pytest.fixture
def key(client: Client) -> str:
    return client.http.headers["authorization"].split()[1]


@pytest.fixture
def run_bare(run, monkeypatch: pytest.MonkeyPatch):
    """Commands of a machine that no variable tells a service or key."""
    monkeypatch.delenv("RMADAPTER_URL")
    monkeypatch.delenv("RMADAPTER_API_KEY")
    return run


def config(tmp_path: Path) -> Path:
    return tmp_path / "config" / "rmadapter" / "config.json"


def test_after_a_login_every_command_knows_service_and_key(
    run_bare, api: Api, key: str, client: Client, tmp_path: Path
) -> None:
    dataset = client.create_dataset("mine")
    done = run_bare("login", typed=f"{api.url}/\n{key}\n")
    assert done.exit_code == 0, done.output
    assert f"logged in to {api.url} as a tenant" in done.output
    assert key not in done.output
    assert stat.S_IMODE(config(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(config(tmp_path).parent.stat().st_mode) == 0o700
    assert [d["dataset"] for d in json.loads(run_bare("datasets", "--json").stdout)] == [dataset]


def test_a_key_from_standard_input_needs_no_terminal(run_bare, api: Api, key: str) -> None:
    done = run_bare("login", "--url", api.url, "--key-stdin", "--json", typed=f"{key}\n")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["admin"] is False
    assert key not in done.output


def test_the_administrators_key_opens_tenants_beside_a_tenants_own(
    run_bare, api: Api, key: str
) -> None:
    for given in (ADMIN_KEY, key):
        assert run_bare("login", "--url", api.url, "--key-stdin", typed=f"{given}\n").exit_code == 0
    assert run_bare("tenants", "list").exit_code == 0
    assert run_bare("datasets").exit_code == 0


@pytest.mark.parametrize(
    ("url", "given", "says"),
    [
        (None, "rma_unknown", "the API key is not known"),
        ("http://127.0.0.1:9", "rma_x", "does not answer"),
        ("localhost:8000", "rma_x", "is no address of a service"),
    ],
)
def test_what_does_not_work_is_not_stored(
    run_bare, api: Api, tmp_path: Path, url: str | None, given: str, says: str
) -> None:
    done = run_bare("login", "--url", url or api.url, "--key-stdin", typed=f"{given}\n")
    assert done.exit_code == 1
    assert says in done.output.replace("\n", " ")
    assert not config(tmp_path).exists()


def test_an_option_comes_before_a_variable_and_that_before_a_login(
    run, api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "http://127.0.0.1:9"
    assert run("login", "--url", api.url, "--key", key).exit_code == 0
    monkeypatch.delenv("RMADAPTER_URL")
    monkeypatch.delenv("RMADAPTER_API_KEY")
    assert run("datasets").exit_code == 0  # the login's
    monkeypatch.setenv("RMADAPTER_API_KEY", "rma_unknown")
    assert run("datasets").exit_code == 1  # the variable's
    assert run("datasets", "--key", key).exit_code == 0  # the option's
    monkeypatch.setenv("RMADAPTER_URL", wrong)
    assert run("datasets", "--key", key).exit_code == 1
    assert run("datasets", "--key", key, "--url", api.url).exit_code == 0


def test_a_stored_key_goes_to_no_other_service(run_bare, api: Api, key: str) -> None:
    assert run_bare("login", "--url", api.url, "--key", key).exit_code == 0
    other = api.url.replace("127.0.0.1", "localhost")
    done = run_bare("datasets", "--url", other)
    assert done.exit_code == 1
    assert "no key" in done.output


def test_logout_deletes_what_login_stored(run_bare, api: Api, key: str, tmp_path: Path) -> None:
    run_bare("login", "--url", api.url, "--key", key)
    assert json.loads(run_bare("logout", "--json").stdout)["deleted"]
    assert not config(tmp_path).exists()
    assert "nothing was stored" in run_bare("logout").output


def test_a_damaged_file_is_told_with_what_to_do(run_bare, tmp_path: Path) -> None:
    config(tmp_path).parent.mkdir(parents=True)
    config(tmp_path).write_text("{")
    done = run_bare("datasets")
    assert done.exit_code == 1
    assert "`rmadapter logout` deletes it" in done.output.replace("\n", " ")
    assert run_bare("logout").exit_code == 0


@pytest.mark.parametrize("arguments", [("datasets",), ("tenants", "list"), ("doctor",)])
def test_no_command_prints_the_key(
    run_bare, api: Api, key: str, tmp_path: Path, arguments: tuple
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RMADAPTER_")}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), "RMADAPTER_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "service", *arguments, "--url", api.url, "--key", key]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert key not in done.stdout + done.stderr
