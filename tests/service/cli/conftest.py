"""Commands that run in this process, against a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import Client
from tests.support.api import Api

Run = Callable[..., Result]


@pytest.fixture
def client(api: Api) -> Client:
    """A tenant with nothing yet."""
    return api.new_tenant()


@pytest.fixture
def run(api: Api, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command as that tenant."""
    monkeypatch.setenv("RMADAPTER_URL", api.url)
    monkeypatch.setenv("RMADAPTER_API_KEY", client.http.headers["authorization"].split()[1])
    monkeypatch.setenv("RMADAPTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)

    return invoke
