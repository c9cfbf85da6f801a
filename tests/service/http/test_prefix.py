"""Behind a proxy that serves the API under a path of its own."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.clip import FrozenCLIP
from service.settings import Settings
from tests.support.api import ADMIN_KEY, Api, start_api


@pytest.fixture(scope="module")
def prefixed(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from start_api(settings.model_copy(update={"path_prefix": "vision/"}), clip)


@pytest.mark.parametrize("prefix", ["/vision", ""], ids=["kept by the proxy", "cut by the proxy"])
def test_every_call_works_with_the_prefix_and_without(prefixed: Api, prefix: str) -> None:
    with httpx.Client(base_url=prefixed.url) as http:
        admin = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert http.get(f"{prefix}/healthz").status_code == 200
        made = http.post(f"{prefix}/v1/tenants", json={"name": "a"}, headers=admin)
        assert made.status_code == 201, made.text
        assert http.post(f"{prefix}/v1/classify").status_code == 401  # before its body is read
        theirs = f"{prefix}/CustomVision/v3.0/Prediction/p/classify/iterations/a/image"
        key = {"Prediction-Key": made.json()["api_key"]}
        answer = http.post(theirs, content=b"x", headers=key)
        assert (answer.status_code, answer.json()["code"]) == (404, "NotFoundIteration")
        assert 'href="console/app.css"' in http.get(f"{prefix}/").text
        assert http.get(f"{prefix}/console/app.css").status_code == 200
        assert http.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/vision"}]


def test_the_page_without_its_last_slash_is_sent_to_the_one_with_it(prefixed: Api) -> None:
    answer = httpx.get(f"{prefixed.url}/vision")
    assert (answer.status_code, answer.headers["location"]) == (308, "/vision/")


def test_another_path_is_not_taken_for_the_prefix(prefixed: Api) -> None:
    assert httpx.get(f"{prefixed.url}/visionary/healthz").status_code == 404
