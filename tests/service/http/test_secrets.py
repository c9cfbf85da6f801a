"""Neither a key nor a picture gets into a log, a metric or an answer; labels stay few."""

import base64
import logging
import os
import re
import signal

import httpx
import numpy as np
import pytest

from service.embedded.redis_server import RedisServer
from service.settings import Settings
from tests.support.api import ADMIN_KEY, Api
from training.data import Sample


@pytest.fixture
def api(api_alone: Api) -> Api:
    return api_alone


def metrics(api: Api) -> str:
    return httpx.get(f"{api.url}/metrics").text


def labels(text: str, name: str) -> set[str]:
    return set(re.findall(rf'rmadapter_requests_total{{.*?{name}="(.*?)"', text))


def test_keys_and_pictures_stay_out_of_logs_metrics_and_refusals(
    api: Api, server: RedisServer, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that work, that are refused, that break the handler and that find no Redis."""
    caplog.set_level(logging.DEBUG)
    tenant = api.new_tenant()
    key = tenant.http.headers["authorization"].split()[1]
    photo = samples[0].data
    picture = base64.b64encode(photo).decode()
    answers = []

    def ask(method: str, path: str, **options) -> None:
        answers.append(tenant.http.request(method, path, **options))

    ask("POST", "/classify", json={"images": [{"b64": picture}], "classes": ["a", "b"]})
    ask("POST", "/classify", json={"images": [{"b64": picture + "!"}], "classes": ["a"]})
    ask("POST", "/classify", json={"images": picture, "classes": ["a"]})
    ask("POST", "/v1/embeddings", json={"input": f"data:image/png,{picture}"})
    ask("POST", "/v1/embeddings", json={"input": {"b64": picture}})
    ask("POST", "/classify", data={"adapter": "no"}, files=[("files", ("a.jpg", photo))])
    ask("POST", "/classify", data={"version": picture}, files=[("files", ("a.jpg", photo))])
    ask("POST", "/v1/datasets", json={"name": key * 5, "extra": picture})
    ask("POST", "/v1/tenants", json={"name": "x"})
    ask("GET", "/v1/nothing", headers={"x-request-id": "mine"})
    ask("POST", "/v1/keys", json={"scope": picture})
    ask("GET", "/v1/datasets", headers={"authorization": f"Bearer {key}x"})
    ask("GET", "/v1/datasets", headers={"authorization": f"Basic {key}"})
    api.components.records.store.set("rmadapter:tenant-names", "not a hash")  # a bug's stand-in
    ask("GET", "/v1/keys")
    assert answers[-1].status_code == 500
    with api.admin() as admin:
        answers.append(admin.http.get("/v1/tenants"))
    server.kill()
    ask("POST", "/v1/datasets", json={"name": "x"})
    ask("POST", "/classify", json={"images": [{"b64": picture}], "classes": ["a", "b"]})
    assert {a.status_code for a in answers} >= {200, 401, 403, 404, 422, 500, 503}
    logged = "\n".join(
        logging.Formatter("%(message)s").format(r)
        for r in caplog.records
        if not r.name.startswith(("httpcore", "httpx"))  # the test's own client
    )
    assert "Traceback" in logged  # the bug is in the log, so the log was looked at
    for text in (logged, metrics(api), *(a.text for a in answers)):
        assert key not in text and ADMIN_KEY not in text
        assert picture[100:200] not in text and repr(photo[100:140])[2:-1] not in text


def test_made_up_routes_and_methods_make_no_labels(api: Api) -> None:
    tenant = api.new_tenant()
    before = metrics(api)
    for i in range(20):
        tenant.http.get(f"/v1/made-up-{i}")
        tenant.http.get(f"/v1/datasets/made-up-{i}")
        tenant.http.request(f"MADEUP{i}", "/v1/datasets")
        tenant.http.request(f"MADEUP{i}", f"/x{i}")
    after = metrics(api)
    assert "made-up" not in after and "MADEUP" not in after
    assert labels(after, "method") - labels(before, "method") <= {"GET", "other"}
    new_routes = labels(after, "route") - labels(before, "route")
    assert new_routes <= {"/v1/datasets/{dataset}", "/v1/datasets", "unknown"}


@pytest.mark.parametrize("how", ["ended", "hangs"])
def test_a_path_cannot_write_lines_into_the_log(
    api: Api, server: RedisServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    tenant = api.new_tenant()
    if how == "ended":
        server.kill()
    else:
        os.kill(server.pid, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING):
        tenant.http.get("/v1/datasets/x%0aERROR%20forged%1b[31m")
    if how == "hangs":
        os.kill(server.pid, signal.SIGCONT)
    written = [r.getMessage() for r in caplog.records if r.name == "service.http.app"]
    assert written
    assert not any("\n" in line or "\x1b" in line for line in written)


def test_settings_show_no_admin_key() -> None:
    shown = repr(Settings(admin_key="secret-key-of-enough-characters"))
    assert "secret-key" not in shown
    assert np.size(shown) == 1
