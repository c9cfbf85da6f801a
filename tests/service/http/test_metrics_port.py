"""Metrics on a port of their own are on no other, whatever the path."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.clip import FrozenCLIP
from service.http.server import serve_metrics
from service.settings import Settings
from tests.support.api import Api, start_api
from tests.support.cluster import free_port


@pytest.fixture(scope="module")
def api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    own = {"api_metrics_port": free_port(), "path_prefix": "/vision"}
    yield from start_api(settings.model_copy(update=own), clip)


@pytest.mark.parametrize("path", ["/metrics", "/vision/metrics", "//metrics", "/vision//metrics"])
def test_the_apis_port_has_no_metrics(api: Api, path: str) -> None:
    assert httpx.get(api.url + path).status_code == 404


def test_the_metrics_port_has_them(api: Api) -> None:
    port = api.components.settings.api_metrics_port
    serve_metrics(api.components, port)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert "rmadapter_requests_total" in text
    assert "rmadapter_open_jobs 0.0" in text
