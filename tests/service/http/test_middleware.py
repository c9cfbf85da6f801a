"""What wraps every request: its id, its line in the log, the limit of its body."""

import socket
import time

import pytest

from service.client import Client
from tests.support.api import Api
from tests.support.bodies import BODIES, PREDICTION, only_head, send_body
from tests.support.waiting import wait_for


def too_large(path: str) -> int:
    """Custom Vision's clients know 400 for it."""
    return 400 if path == PREDICTION else 413


@pytest.mark.parametrize(("path", "kind"), BODIES)
def test_a_body_over_the_limit_is_413_before_it_is_all_read(
    api: Api, tenant: Client, dataset: str, path: str, kind: str
) -> None:
    key = tenant.http.headers["authorization"].split()[1]
    status, sent = send_body(api, path.format(dataset=dataset), kind, key, chunked=True, mib=120)
    assert status in (too_large(path), 0)  # 0: it hung up before the answer was read
    assert sent < 110


@pytest.mark.parametrize(("path", "kind"), BODIES)
def test_a_body_over_the_limit_by_its_own_word_is_413(
    api: Api, tenant: Client, dataset: str, path: str, kind: str
) -> None:
    assert only_head(api, tenant, path.format(dataset=dataset), kind, 31) == too_large(path)


def test_a_request_id_that_could_forge_a_log_line_is_replaced(tenant: Client) -> None:
    forged = "x] [tenant=root\u2028next"
    answer = tenant.http.get("/healthz", headers={"x-request-id": forged.encode()})
    assert answer.headers["x-request-id"] != forged
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/classify", "/v1/embeddings", "/v1/datasets"])
def test_a_client_that_hangs_up_is_no_error_of_ours(
    tenant: Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = tenant.http.base_url.host, tenant.http.base_url.port
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {tenant.http.headers['authorization']}\r\nContent-Length: 50\r\n"
    with caplog.at_level("INFO", "rmadapter.access"):
        with socket.create_connection((host, port)) as line:
            line.sendall(f"{head}\r\n{{".encode())
            time.sleep(0.3)
        wait_for(lambda: any(path in r.getMessage() for r in caplog.records), 10)
    assert [r.status for r in caplog.records if r.name == "rmadapter.access"] == [499]
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("path", ["/console", "/v1/datasets/"])
def test_a_redirect_stays_on_this_host_whatever_the_client_calls_it(
    tenant: Client, path: str
) -> None:
    answer = tenant.http.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("/")
    assert "evil" not in answer.headers["location"]
