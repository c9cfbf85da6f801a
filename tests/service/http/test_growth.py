"""Whatever a tenant calls again and again, what Redis keeps of it has an end."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from service.http.app import document
from service.settings import Settings
from tests.support.api import Api, away_from_workers, start_api
from tests.support.random_adapters import manifest_of, random_weights
from tests.support.records import tenant_step_keeping
from training.data import Sample

LIMITS = {
    "max_tenant_images": 6,
    "max_tenant_datasets": 3,
    "max_tenant_adapters": 3,
    "max_versions": 3,
    "max_tenant_keys": 4,
    "max_open_jobs": 3,
    "max_ended_jobs": 5,
    "manage_rate": 0,  # not the rates hold it back
    "classify_rate": 0,
}
TO_THE_LIMITS, MORE = 8, 12  # rounds
KEPT = 3  # of jobs in the queue, and of names of deleted adapters


@pytest.fixture(scope="module")
def api(
    settings: Settings, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    own = LIMITS | {
        "redis_url": away_from_workers(settings),
        "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
    }
    yield from start_api(settings.model_copy(update=own), clip)


class Caller:
    """One tenant that calls every route; it deletes what it makes, or leaves it there."""

    def __init__(self, api: Api, clip: FrozenCLIP, samples: list[Sample], deletes: bool) -> None:
        self.api, self.clip, self.samples, self.deletes = api, clip, samples, deletes
        self.client = api.new_tenant()
        self.seen: set[tuple[str, str]] = set()
        self.refused = 0
        self.dataset = ""
        self._numbers = count()

    def round(self) -> None:
        for calls in (self.keys, self.datasets, self.jobs, self.adapters, self.answers):
            calls(next(self._numbers))
        if self.deletes:
            where = {"dataset": self.dataset}
            listed = self.call("GET", "/v1/datasets/{dataset}/images", **where).json()["items"]
            for one in listed[:1]:
                path = "/v1/datasets/{dataset}/images/{image}"
                self.call("DELETE", path, image=one["image"], **where)
            self.call("DELETE", "/v1/datasets/{dataset}", **where)

    def call(
        self, method: str, route: str, sent: dict[str, Any] | None = None, **parts: str
    ) -> httpx.Response:
        """One call; `parts` fill the braces of its route."""
        self.seen.add((method, route))
        response = self.client.http.request(method, route.format(**parts), **(sent or {}))
        assert response.is_success or response.status_code in (400, 404, 409, 429), response.text
        self.refused += response.status_code == 429
        return response

    def keys(self, number: int) -> None:
        self.call("POST", "/v1/keys", {"json": {"scope": "classify"}})
        for key in self.call("GET", "/v1/keys").json()["items"]:
            if self.deletes and key["scope"] == "classify":
                self.call("DELETE", "/v1/keys/{key_id}", key_id=key["key_id"])

    def datasets(self, number: int) -> None:
        made = self.call("POST", "/v1/datasets", {"json": {"name": f"set {number}"}})
        self.call("GET", "/v1/datasets")
        if made.is_success:
            self.dataset = made.json()["dataset"]
        where = {"dataset": self.dataset}
        for label, sample in (("cat", self.samples[0]), ("dog", self.samples[-1])):
            sent = {"data": {"label": label}, "files": [("files", (sample.name, sample.data))]}
            self.call("POST", "/v1/datasets/{dataset}/images", sent, **where)
        self.call("GET", "/v1/datasets/{dataset}", **where)
        listed = self.call("GET", "/v1/datasets/{dataset}/images", **where).json()["items"]
        for one in listed:
            path, image = "/v1/datasets/{dataset}/images/{image}", one["image"]
            self.call("GET", path, image=image, **where)
            if self.deletes:
                moved = {"json": {"label": f"{one['label']} {number}"}}
                self.call("PATCH", path, moved, image=image, **where)

    def jobs(self, number: int) -> None:
        body = {"dataset": self.dataset, "adapter": f"adapter-{number}"}
        again = {"Idempotency-Key": f"job {number}"}
        full = self.call("POST", "/v1/jobs", {"json": body, "headers": again}).status_code == 429
        for one in self.call("GET", "/v1/jobs").json()["items"]:
            self.call("GET", "/v1/jobs/{job}", job=one["job"])
            if (self.deletes or full) and one["state"] == "queued":
                self.call("DELETE", "/v1/jobs/{job}", job=one["job"])
                self.call("GET", "/v1/jobs/{job}/events", job=one["job"])

    def adapters(self, number: int) -> None:
        """A worker would make the version."""
        name = f"adapter-{number if self.deletes else 0}"
        records = self.api.components.records.adapters
        version = records.next_number(self.client.tenant, name)
        manifest = manifest_of(
            self.clip, tenant=self.client.tenant, adapter=name, version=version, classes=("a", "b")
        )
        data = encode_artifact(Artifact(manifest, random_weights(self.clip, 1, rank=1)))
        records.add(manifest, data)
        self.call("GET", "/v1/adapters")
        self.call("GET", "/v1/adapters/{adapter}", adapter=name)
        self.call(
            "PUT", "/v1/adapters/{adapter}/live", {"json": {"version": version}}, adapter=name
        )
        one = {"adapter": name, "version": str(version)}
        self.call("GET", "/v1/adapters/{adapter}/versions/{version}", **one)
        self.call("GET", "/v1/adapters/{adapter}/versions/{version}/artifact", **one)
        self.predictions(name)
        earlier = one | {"version": str(version - 1)}  # a tenant's versions are a quota of its jobs
        self.call("DELETE", "/v1/adapters/{adapter}/versions/{version}", **earlier)
        if self.deletes:
            self.call("DELETE", "/v1/adapters/{adapter}", adapter=name)

    def predictions(self, name: str) -> None:
        """Custom Vision's calls; pictures by URL are off."""
        route = "/customvision/v3.1/prediction/{project}/classify/iterations/{published_name}"
        for form in ("", "/nostore"):
            parts = {"project": "p", "published_name": name}
            file = {"files": {"imageData": self.samples[0].data}}
            self.call("POST", f"{route}/image{form}", file, **parts)
            url = {"json": {"Url": "https://example.com/a.jpg"}}
            self.call("POST", f"{route}/url{form}", url, **parts)

    def answers(self, number: int) -> None:
        file = ("files", ("a.jpg", self.samples[0].data))
        for route in ("/v1/classify", "/classify"):
            self.call("POST", route, {"data": {"classes": f"cat,dog {number}"}, "files": [file]})
        self.call("POST", "/v1/embeddings", {"json": {"input": [f"a text {number}"]}})
        for route in ("/v1/quotas", "/v1/models", "/healthz", "/readyz", "/metrics"):
            self.call("GET", route)


def kept_bytes(api: Api) -> dict[str, int]:
    """By key of Redis."""
    store = api.components.records.store
    names = list(store.scan_iter(count=1000))
    return {name: store.memory_usage(name, samples=0) or 0 for name in names}


def test_every_route_in_a_loop_leaves_redis_as_large_as_it_was(
    api: Api, clip: FrozenCLIP, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.jobs._UNSEEN", KEPT)
    monkeypatch.setattr("service.records.store.TENANT_STEP", tenant_step_keeping(KEPT))
    callers = [Caller(api, clip, samples, deletes) for deletes in (True, False)]

    def repeat(rounds: int) -> dict[str, int]:
        for _ in range(rounds):
            for caller in callers:
                caller.round()
        return kept_bytes(api)

    before = repeat(TO_THE_LIMITS)
    refused = [caller.refused for caller in callers]
    after = repeat(MORE)
    assert callers[1].refused > refused[1]  # it goes on against its limits
    grown = {name for name, size in after.items() if size > before.get(name, 0)}
    assert sum(after.values()) <= 1.05 * sum(before.values()), grown
    administrators = {path for path in document()["paths"] if path.startswith("/v1/tenants")}
    routes = {(m.upper(), p) for p, calls in document()["paths"].items() for m in calls}
    assert {route for route in routes if route[1] not in administrators} <= callers[0].seen
