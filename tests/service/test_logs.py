"""A log line says whose it is, as text or JSON, and holds no secret."""

import io
import json
import logging
import re
import sys
from datetime import datetime

import pytest

from service import logs
from tests.support.api import Api
from training.data import Sample


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch):
    """What the process logged since the last call, as JSON."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logs.set_up("json", "info")

    def since() -> list[dict]:
        text = written.getvalue()
        written.seek(0)
        written.truncate()
        return [json.loads(line) for line in text.splitlines()]

    return since


def test_a_line_is_an_object_with_its_time_and_what_it_is_about(lines) -> None:
    with logs.about(request_id="r1"):
        logs.note(tenant="t1")
        with logs.about(job="j1"):
            logging.getLogger("here").warning("lost %d", 3)
        logging.getLogger("here").info("on")
    logging.getLogger("here").info("apart")
    first, second, third = lines()
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    about = {"request_id": "r1", "tenant": "t1", "job": "j1"}
    assert first == {"level": "WARNING", "logger": "here", "message": "lost 3"} | about
    assert (second["request_id"], "job" in second) == ("r1", False)
    assert "request_id" not in third


def test_an_exception_stays_one_line(lines) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("here").exception("it broke")
    (line,) = lines()
    assert "ValueError: broken" in line["exc_info"]


def test_each_request_is_a_line_with_its_id_and_tenant_and_no_secret(
    api: Api, samples: list[Sample], lines
) -> None:
    client = api.new_tenant()
    lines()
    key = client.http.headers["authorization"].split()[1]
    answer = client.http.post(
        "/classify?token=hidden",
        files=[("files", ("secret-name.jpg", samples[0].data)), ("classes", (None, "a,b"))],
        headers={"x-request-id": "from-the-client"},
    )
    assert answer.status_code == 200
    client.http.get("/healthz")
    logged = [line for line in lines() if line["logger"] == "rmadapter.access"]
    (line,) = logged
    assert line["request_id"] == answer.headers["x-request-id"] == "from-the-client"
    assert line["tenant"] == client.tenant
    assert (line["method"], line["route"], line["status"]) == ("POST", "/classify", 200)
    assert line["ms"] > 0
    for secret in (key, "hidden", "secret-name"):
        assert secret not in json.dumps(logged)


def test_text_lines_end_with_the_requests_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "warning")
    with logs.about(request_id="r1"):
        logging.getLogger("here").info("not shown")
        logging.getLogger("here").warning("shown")
    assert re.fullmatch(r"WARNING here: shown \[r1\]\n", capsys.readouterr().err)
