"""The service as separate processes: one Redis, API servers, workers; any of them can be killed.

Processes are forked from one that has imported everything, for importing takes longest.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import torch
from pydantic import SecretStr

from service.cli import app
from service.client import Client
from service.embedded.redis_server import RedisServer
from service.records import Records, open_records
from service.settings import Settings
from tests.support.api import ADMIN_KEY
from tests.support.waiting import wait_for

START_SECONDS = 120.0  # on cores that others use
_CLONE_NEWNET = 0x40000000  # Linux: a namespace of networks
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.cluster", "service.worker", "training.worker"])


class Process:
    """`python -m service COMMAND`, with its output in a file."""

    def __init__(self, command: str, settings: Settings, log: Path) -> None:
        self.command, self.settings, self.log = command, settings, log
        self.environment: dict[str, str] = {}  # variables beside those of the settings
        self.host: str | None = None  # the network namespace that it runs in
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self, max_file_bytes: int | None = None) -> None:
        """Does not wait until it is ready. `max_file_bytes`: as if the disk were full then."""
        environment = self.settings.environment() | self.environment
        arguments = (self.command, environment, str(self.log), max_file_bytes, self.host)
        self._process = _FORKS.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def send(self, how: int) -> None:
        os.kill(self.pid, how)

    def stop(self, how: int = signal.SIGTERM, seconds: float = 60.0) -> int | None:
        """Its exit code."""
        assert self._process is not None
        self.send(how)
        self._process.join(seconds)
        assert not self._process.is_alive(), self.log.read_text()[-2000:]
        return self._process.exitcode

    def kill(self) -> None:
        if self.running:
            self.stop(signal.SIGKILL)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Server(Process):
    """An API server on a port that it keeps."""

    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__("serve", settings.model_copy(update={"port": free_port()}), log)

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}"

    def is_ready(self) -> bool:
        assert self.running, self.text()[-2000:]
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def wait(self) -> None:
        wait_for(self.is_ready, START_SECONDS)


class Worker(Process):
    """A training worker."""

    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__("worker", settings, log)
        self._read = 0

    def start(self, max_file_bytes: int | None = None) -> None:
        self._read = len(self.text())
        super().start(max_file_bytes)

    def is_ready(self) -> bool:
        assert self.running, self.text()[-2000:]
        return "worker ready" in self.text()[self._read :]

    def wait(self) -> None:
        wait_for(self.is_ready, START_SECONDS)


class Cluster:
    """Redis, API servers and workers over one folder; `settings` change the service's own."""

    def __init__(self, folder: Path, servers: int = 1, workers: int = 1, **settings: object):
        self.redis = RedisServer(folder / "redis")
        common = {
            "redis_url": self.redis.url,
            "blob_url": (folder / "blobs").as_uri(),
            "data_dir": folder / "data",
            "admin_key": SecretStr(ADMIN_KEY),
        }
        self.settings = Settings().model_copy(update=common | settings)
        self.servers = [Server(self.settings, folder / f"server{i}.log") for i in range(servers)]
        self.workers = [Worker(self.settings, folder / f"worker{i}.log") for i in range(workers)]
        self._clients = ExitStack()

    @property
    def records(self) -> Records:
        """The records themselves, to look behind the API."""
        assert self.settings.redis_url and self.settings.blob_url
        return open_records(self.settings.redis_url, self.settings.blob_url, self.settings)

    @contextmanager
    def running(self) -> Iterator["Cluster"]:
        with ExitStack() as stack:
            stack.enter_context(self._clients)
            stack.callback(self.redis.kill)
            self.redis.start()
            for process in (*self.servers, *self.workers):
                stack.callback(process.kill)
                process.start()
            for process in (*self.servers, *self.workers):
                process.wait()
            yield self

    def new_tenant(self, url: str | None = None) -> tuple[str, Client]:
        """A new tenant's id, and a client with its key."""
        url = url or self.servers[0].url
        with Client(url, ADMIN_KEY, wait_seconds=0) as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": "a tenant"})
        return made["tenant"], self._clients.enter_context(
            Client(url, made["api_key"], wait_seconds=0)
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(
    command: str,
    environment: dict[str, str],
    log: str,
    max_file_bytes: int | None,
    host: str | None,
) -> None:
    """The child: its output to the log, its host, its environment, then the command."""
    with Path(log).open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    if host is not None:
        with Path("/run/netns", host).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {host}")
    os.environ.update(environment)
    if max_file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    torch.set_num_threads(1)  # there are more processes than cores, and threads wait spinning
    app([command])
