"""The application: its calls, its health, and whose pages may call it."""

import threading
from contextlib import contextmanager

import httpx

from adapters.clip import FrozenCLIP
from service.client import Client
from service.settings import Settings
from tests.support.api import ADMIN_KEY, Api, problem, start_api
from tests.support.waiting import wait_for
from training.data import Sample


def test_health_readiness_and_metrics(api: Api, tenant: Client, samples: list[Sample]) -> None:
    tenant.classify([("a", samples[0].data)], ["x", "y"])
    assert httpx.get(f"{api.url}/healthz").json() == {"status": "alive"}
    ready = httpx.get(f"{api.url}/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    text = httpx.get(f"{api.url}/metrics").text
    for name in ("requests_total", "request_seconds_bucket", "queued_rows", "batch_rows_bucket"):
        assert f"rmadapter_{name}" in text
    assert ADMIN_KEY not in text and tenant.tenant not in text


def test_readiness_fails_when_the_device_is_stuck(api: Api) -> None:
    """Promise 3: not only when the process is gone."""
    release = threading.Event()
    api.components.engine.call(lambda: release.wait(10))
    try:
        stuck = httpx.get(f"{api.url}/readyz", timeout=10)
        assert stuck.status_code == 503
        assert "no answer within 2 s" in stuck.json()["device"]
        assert httpx.get(f"{api.url}/healthz").status_code == 200
    finally:
        release.set()
    wait_for(lambda: httpx.get(f"{api.url}/readyz", timeout=10).status_code == 200, 10)


def test_unknown_paths_and_methods_are_problems_too(tenant: Client) -> None:
    problem(tenant.http.request("GET", "/v1/nothing"), 404)
    problem(tenant.http.request("PATCH", "/v1/datasets"), 405)


def test_the_documentation_names_every_call_of_the_contract(api: Api) -> None:
    assert httpx.get(f"{api.url}/docs").status_code == 200
    paths = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    calls = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert {
        "POST /v1/tenants",
        "POST /v1/tenants/{tenant}/keys",
        "DELETE /v1/tenants/{tenant}",
        "POST /v1/datasets",
        "POST /v1/datasets/{dataset}/images",
        "GET /v1/datasets",
        "GET /v1/datasets/{dataset}",
        "DELETE /v1/datasets/{dataset}",
        "POST /v1/jobs",
        "GET /v1/jobs/{job}",
        "GET /v1/jobs/{job}/events",
        "DELETE /v1/jobs/{job}",
        "GET /v1/adapters",
        "GET /v1/adapters/{adapter}",
        "PUT /v1/adapters/{adapter}/live",
        "DELETE /v1/adapters/{adapter}",
        "DELETE /v1/adapters/{adapter}/versions/{version}",
        "GET /v1/adapters/{adapter}/versions/{version}/artifact",
        "POST /classify",
        "POST /v1/classify",
        "POST /v1/embeddings",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    } <= calls


def test_pages_of_the_origins_that_are_set_may_call_the_api(
    settings: Settings, clip: FrozenCLIP
) -> None:
    shop = {"Origin": "https://shop.example"}
    own = settings.model_copy(update={"cors_origins": "https://shop.example, https://b.example"})
    for used, allowed in ((own, "https://shop.example"), (settings, None)):
        with contextmanager(start_api)(used, clip) as api:
            answer = httpx.get(f"{api.url}/healthz", headers=shop)
            assert answer.headers.get("access-control-allow-origin") == allowed
