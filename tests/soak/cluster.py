"""The service as separate processes: one Redis, API servers, workers; any of them can be killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from pydantic import SecretStr

from service.client import Client
from service.redis_server import RedisServer
from service.settings import Settings
from tests.conftest import ADMIN_KEY, wait_for

START_SECONDS = 120.0  # a server imports torch and loads its CLIP, on cores that others use


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """`python -m service COMMAND`, with its output in a file."""

    def __init__(self, command: str, settings: Settings, log: Path) -> None:
        self.log = log
        self._command, self._settings = command, settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return self._settings

    def start(self, preexec: Callable[[], None] | None = None) -> None:
        """Does not wait until it is ready."""
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", self._command],
                env=os.environ | self._settings.environment(),
                stdout=stream,
                stderr=stream,
                preexec_fn=preexec,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)


class Server(Process):
    """An API server on a port that it keeps."""

    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__("serve", settings.model_copy(update={"port": free_port()}), log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def wait(self) -> None:
        wait_for(self.is_ready, START_SECONDS)


class Cluster:
    """Redis, `servers` API servers and `workers` workers over one folder."""

    def __init__(self, folder: Path, servers: int = 1, workers: int = 1, **settings: object):
        self.redis = RedisServer(folder / "redis")
        self.settings = Settings(
            redis_url=self.redis.url,
            blob_url=(folder / "blobs").as_uri(),
            data_dir=folder / "data",
            admin_key=SecretStr(ADMIN_KEY),
        ).model_copy(update=settings)
        self.servers = [Server(self.settings, folder / f"server{i}.log") for i in range(servers)]
        self.workers = [
            Process("worker", self.settings, folder / f"worker{i}.log") for i in range(workers)
        ]

    def __enter__(self) -> "Cluster":
        self.redis.start()
        for process in (*self.servers, *self.workers):
            process.start()
        for server in self.servers:
            server.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.servers, *self.workers):
            process.kill()
        self.redis.kill()

    def new_tenant(self, url: str | None = None, name: str = "a tenant") -> Client:
        """A client of a new tenant; its `tenant` is the id."""
        url = url or self.servers[0].url
        with Client(url, ADMIN_KEY) as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": name})
        client = Client(url, made["api_key"])
        client.tenant, client.api_key = made["tenant"], made["api_key"]
        return client
