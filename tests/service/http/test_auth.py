"""Who may do what, known before a body is read."""

import re

import httpx
import pytest

from service.client import Client
from service.http.app import document
from service.http.custom_vision import takes_picture
from service.http.middleware import takes_pictures
from tests.support.api import Api, problem
from tests.support.bodies import BODIES, head_alone, many, only_head, send_body
from tests.support.waiting import wait_for

WRITES = [
    (path, method)
    for path, operations in document()["paths"].items()
    for method in operations
    if method in ("post", "put", "patch")
]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic x"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/datasets"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/adapters"),
        ("POST", "/classify"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/tenants"),
    ],
)
def test_no_key_and_a_wrong_key_are_401(api: Api, method: str, path: str, headers: dict) -> None:
    response = httpx.request(method, api.url + path, headers=headers)
    problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_tenants_key_makes_no_tenants_and_the_admins_reads_no_data(
    api: Api, tenant: Client
) -> None:
    problem(tenant.http.request("POST", "/v1/tenants", json={"name": "x"}), 403)
    with api.admin() as admin:
        problem(admin.http.request("GET", "/v1/datasets"), 403)


def test_a_rotated_key_ends_at_once(api: Api) -> None:
    client = api.new_tenant()
    with api.admin() as admin:
        new = admin.call("POST", f"/v1/tenants/{client.tenant}/keys")["api_key"]
    problem(client.http.request("GET", "/v1/datasets"), 401)
    with Client(api.url, new) as again:
        assert again.call("GET", "/v1/datasets")["items"] == []


@pytest.mark.parametrize(("path", "kind"), [*BODIES, ("/v1/tenants", "application/json")])
def test_no_body_is_read_for_a_key_that_is_not_known(
    api: Api, dataset: str, path: str, kind: str
) -> None:
    status, sent = send_body(api, path.format(dataset=dataset), kind, "rma_unknown", True, mib=25)
    assert status in (401, 0)
    assert sent < 20


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_nothing_is_read_or_looked_up_for_one_whose_pictures_would_wait_for_too_long(
    api: Api, tenant: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_up() -> int:
        return int(api.components.records.store.info("commandstats")["cmdstat_get"]["calls"])

    tenant.call("GET", "/v1/datasets")  # its key is known
    engine = api.components.engine
    monkeypatch.setattr(engine.gate, "picture_seconds", 1.0)
    with engine.admitted(tenant.tenant) as admission:
        admission.hold(1000)
        before = looked_up()
        assert only_head(api, tenant, path, "multipart/form-data; boundary=b", 1) == 429
        assert looked_up() == before
    assert not engine.gate.under_way


def test_a_request_counts_as_under_way_while_its_body_is_still_coming(
    api: Api, tenant: Client
) -> None:
    engine = api.components.engine
    with head_alone(api, tenant, "/classify", "multipart/form-data; boundary=b", 1):
        wait_for(lambda: engine.gate.under_way == {tenant.tenant: 1}, 10)
    wait_for(lambda: not engine.gate.under_way, 10)


@pytest.mark.parametrize(("path", "method"), WRITES)
def test_every_route_refuses_a_classify_key_or_reads_little(
    tenant: Client, path: str, method: str
) -> None:
    """Of one body for all routes: what a classify key may not call does not parse it."""
    key = tenant.call("POST", "/v1/keys", json={"scope": "classify"})["api_key"]
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    at = re.sub(r"{[^}]+}", "1", path)
    response = tenant.http.request(method, at, content=b"{not json", headers=headers)
    expected = (400, 404) if takes_picture(at) else (422,) if takes_pictures(at) else (403,)
    assert response.status_code in expected, response.text
    wrong = many("{}", '{"images": [', "]}", 1_000_000)
    refused = tenant.http.request(method, at, content=wrong, headers=headers)
    assert refused.status_code in (400, 403, 404, 413, 422)
    assert len(refused.content) < 10_000


def test_a_tenants_key_is_refused_at_the_administrators_routes_before_its_body_is_read(
    tenant: Client,
) -> None:
    assert tenant.http.post("/v1/tenants", content=b"{not json").status_code == 403
