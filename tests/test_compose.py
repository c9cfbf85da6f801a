"""The compose file says what the service reads: its commands and settings exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_there_are_redis_an_api_and_a_worker_with_a_gpu(compose: dict) -> None:
    assert set(compose["services"]) == {"redis", "api", "worker"}
    for name in ("api", "worker"):
        device = compose["services"][name]["deploy"]["resources"]["reservations"]["devices"][0]
        assert device["capabilities"] == ["gpu"]


def test_their_commands_are_commands_of_the_command_line(compose: dict) -> None:
    known = set(get_command(app).commands)
    for name in ("api", "worker"):
        assert compose["services"][name]["command"][0] in known


def test_their_settings_are_settings_of_the_service(compose: dict) -> None:
    known = {f"RMADAPTER_{name.upper()}" for name in Settings.model_fields}
    for name in ("api", "worker"):
        given = set(compose["services"][name]["environment"])
        assert given <= known
        assert {"RMADAPTER_REDIS_URL", "RMADAPTER_BLOB_URL"} <= given


def test_every_variable_that_compose_reads_is_in_the_example(compose: dict) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    example = (ROOT / "docker" / ".env.example").read_text()
    assert required == {"REDIS_PASSWORD", "RMADAPTER_ADMIN_KEY"}
    assert all(f"\n{name}=" in f"\n{example}" for name in required)


def test_the_image_takes_in_every_package_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} /src/{package}" in dockerfile
