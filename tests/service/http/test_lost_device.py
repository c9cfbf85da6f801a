"""A server whose device is lost answers what it has, and ends, so that it is started anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import Client, ClientError
from service.settings import Settings
from tests.support.api import ADMIN_KEY, is_ready
from tests.support.cluster import free_port
from tests.support.losing_server import LOST
from tests.support.paths import ROOT
from tests.support.waiting import wait_for
from training.data import Sample


def test_a_server_whose_device_is_lost_answers_503_and_ends_with_an_error(
    settings: Settings, samples: list[Sample], tmp_path: Path
) -> None:
    own = settings.model_copy(update={"port": free_port(), "drain_seconds": 1.0})
    url, sign, log = f"http://127.0.0.1:{own.port}", tmp_path / "lost", tmp_path / "log"
    command = [sys.executable, "-m", "tests.support.losing_server", str(sign)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=os.environ | own.environment(), cwd=ROOT, stdout=stream, stderr=stream
        )
    try:
        wait_for(lambda: is_ready(url) or process.poll() is not None, 120)
        with Client(url, ADMIN_KEY) as admin:
            key = admin.call("POST", "/v1/tenants", json={"name": "t"})["api_key"]
        with Client(url, key, wait_seconds=0) as client:
            picture = [(samples[0].name, samples[0].data)]
            assert client.classify(picture, ["a", "b"])["precision"] == "fp32"
            sign.touch()
            with pytest.raises(ClientError, match="device is lost") as refused:
                client.classify(picture, ["a", "b"])
            assert refused.value.status == 503
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
    assert LOST in log.read_text()
    assert "this process cannot use it any more" in log.read_text()
