"""The service over real HTTP: a server in a thread, a worker process, and what clients do first."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adapters.clip import FrozenCLIP
from service.client import Client
from service.http.app import create_app
from service.http.server import PatientProtocol, listen
from service.settings import Settings
from service.wiring import Components, open_components
from tests.support.waiting import wait_for
from training.data import Sample

ADMIN_KEY = "an-admin-key-for-tests-alone"


@dataclass(frozen=True, slots=True)
class Api:
    """A running API server."""

    url: str
    components: Components
    clients: ExitStack

    def admin(self) -> Client:
        return Client(self.url, ADMIN_KEY, wait_seconds=0)

    def new_tenant(self, name: str = "a tenant") -> Client:
        with self.admin() as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": name})
        client = self.clients.enter_context(Client(self.url, made["api_key"], wait_seconds=0))
        client.tenant = made["tenant"]
        return client


def start_api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    """An API server on a free port, in a thread, over real HTTP."""
    components = open_components(settings, clip)
    listener = listen(settings)
    server = uvicorn.Server(
        uvicorn.Config(create_app(components), log_level="warning", http=PatientProtocol)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_for(lambda: server.started)
    try:
        with ExitStack() as clients:
            yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", components, clients)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def start_worker(
    settings: Settings, log: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A worker process that is ready for jobs."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "worker"],
            env={**os.environ, **settings.environment(), **(environment or {})},
            stdout=stream,
            stderr=stream,
        )
    wait_for(lambda: "worker ready" in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    return process


def is_ready(url: str) -> bool:
    """Whether a server answers, and says that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


def away_from_workers(settings: Settings) -> str:
    """The same Redis, another database: what is queued there stays there to be looked at."""
    return settings.redis_url.replace("db=0", "db=1")


def upload(client: Client, samples: list[Sample], name: str = "photos") -> str:
    """A data set of these samples."""
    dataset = client.create_dataset(name)
    for label in sorted({sample.label for sample in samples}):
        files = [("files", (s.name, s.data)) for s in samples if s.label == label]
        path = f"/v1/datasets/{dataset}/images"
        client.call("POST", path, data={"label": label}, files=files)
    return dataset


def run_job(client: Client, dataset: str, adapter: str, **options) -> dict:
    """Starts a fit and follows it to its end."""
    job = client.create_job(dataset, adapter, **options)
    for event in client.job_events(job["job"]):
        job = event
    return job


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem+json of an answer with this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert set(body) == {"type", "title", "status", "detail", "errors"}
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    return body
