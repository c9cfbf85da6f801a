"""`pip install rmadapter`, with no extra: the client and its commands, without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import Client
from tests.support.api import Api
from tests.support.client_alone import client_package, hidden
from tests.support.paths import ROOT
from tests.support.photos import photo_folder


@pytest.fixture
def alone(api: Api, client: Client, tmp_path: Path):
    """Runs a command as the tenant, in a process without the service's packages."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RMADAPTER_")} | {
        "RMADAPTER_URL": api.url,
        "RMADAPTER_API_KEY": client.http.headers["authorization"].split()[1],
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tests.support.client_alone", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)

    return run


def test_what_is_hidden_is_the_service_and_not_the_client() -> None:
    assert {"torch", "fastapi", "redis", "numpy", "PIL"} <= hidden()
    assert not {"httpx", "typer", "rich", "pydantic", "pydantic_settings"} & hidden()


def test_its_commands_work(alone, api: Api, client: Client, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", ("crab", "lotus"), 2)
    key = client.http.headers["authorization"].split()[1]
    for arguments in (
        ("--help",),
        ("login", "--url", api.url, "--key", key),
        ("import", "folder", folder),
        ("classify", folder, "--classes", "crab,lotus"),
        ("datasets",),
        ("keys", "list"),
        ("fit", "--help"),
        ("logout",),
    ):
        done = alone(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)


def test_doctor_looks_at_what_a_client_has(alone) -> None:
    done = alone("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert [f["what"] for f in json.loads(done.stdout)] == ["service", "key", "sign-in"]


@pytest.mark.parametrize(
    "arguments",
    [("up",), ("serve",), ("worker",), ("openapi",), ("backup", "f.tar"), ("evaluate", "paper")],
)
def test_commands_of_the_service_say_what_to_install(alone, tmp_path: Path, arguments) -> None:
    options = ("--data", tmp_path) if arguments[0] == "evaluate" else ()
    done = alone(*arguments, *options)
    assert done.returncode == 1, done.stderr
    assert "is not installed" in done.stderr
    assert "pip install 'rmadapter[cpu,embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_of_the_client_is_its_one_file_and_needs_httpx_alone(tmp_path: Path) -> None:
    """As the wheel has it: for a program with a `service` of its own."""
    package = client_package(tmp_path)
    assert (package / "py.typed").exists()
    check = (
        "import sys, rmadapter_client\n"
        "assert rmadapter_client.AsyncClient and rmadapter_client.ClientError\n"
        "print({'service', 'adapters', 'training', 'torch', 'typer'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", check]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout == "set()\n", done.stderr
