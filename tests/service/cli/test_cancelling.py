"""Ctrl-C ends the fit that a command waits for, and not the command alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.api import Api, upload
from tests.support.waiting import wait_for
from training.data import Sample


def test_ctrl_c_cancels_the_job(api_alone: Api, samples: list[Sample], tmp_path: Path) -> None:
    client = api_alone.new_tenant()
    dataset = upload(client, samples[:30])
    environment = os.environ | {
        "RMADAPTER_URL": api_alone.url,
        "RMADAPTER_API_KEY": client.http.headers["authorization"].split()[1],
        "RMADAPTER_DATA_DIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "service", "fit", "--dataset", dataset, "--adapter", "a"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores it, and so would this process
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    jobs = lambda: list(client.pages("/v1/jobs"))  # noqa: E731
    wait_for(lambda: bool(jobs()))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    (job,) = jobs()
    assert job["state"] == "cancelled"
    assert f"{job['job']} cancelled" in said
    assert "Traceback" not in said
