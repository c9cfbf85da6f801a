"""`rmadapter up`: Redis, a worker and the API on one machine, keys in the data directory."""

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from adapters.errors import RMAdapterError
from service import tracing
from service.app import create_app
from service.errors import Unauthorized
from service.redis_server import RedisServer
from service.registry import Registry
from service.services import Services, open_services
from service.settings import Settings

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # how often it is looked whether Redis and the worker still run
_WORKER_STOP_SECONDS = 10.0  # then the fit in hand is left for the next start
_GRACE_SECONDS = 30  # accepted requests are finished within it
_KEEP_ALIVE_SECONDS = 75  # above a minute, for which balancers keep idle connections


def up(settings: Settings) -> None:
    """Runs everything until a signal."""
    for name in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has stopped
        signal.signal(name, lambda *_: sys.exit(0))
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(_alone(settings.data_dir))
        listener = stack.enter_context(listen(settings))
        settings, admin_key_is_new = _with_admin_key(settings)
        settings = stack.enter_context(embedded_redis(settings))
        stack.enter_context(_worker(settings))
        services = open_services(settings)
        _ensure_default_tenant(services.registry, settings.data_dir)
        host, port = listener.getsockname()[:2]
        url = f"http://{host}:{port}"
        listener.listen()  # who reads the next line may call at once
        print(f"rmadapter is up: {url} (docs at {url}/docs), model {services.clip.name}")
        if admin_key_is_new and settings.admin_key:
            print(f"admin key, shown this once: {settings.admin_key.get_secret_value()}")
        print(f"open {url} and sign in with the key in {settings.data_dir / 'default.key'}")
        print(f"keys and data lie in {settings.data_dir}", flush=True)
        serve_app(services, listener, drain_seconds=0.0)  # nobody to take over


def serve_app(services: Services, listener: socket.socket, drain_seconds: float) -> None:
    """Serves until SIGINT or SIGTERM, then drains, and finishes what it accepted."""
    app = create_app(services)
    tracing.trace_requests(app)
    config = uvicorn.Config(
        app,
        log_config=None,  # the service's own, which also says more of each request
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    _DrainingServer(config, services.draining, drain_seconds).run(sockets=[listener])


class _DrainingServer(uvicorn.Server):
    """Before it stops to listen, it goes on for a while in which /readyz says no.

    What a closing listener has not accepted yet is lost, and so is a request on a kept connection
    that is closed in that moment: so balancers are turned away first, and connections ended by the
    answers themselves.
    """

    def __init__(self, config: uvicorn.Config, draining: threading.Event, seconds: float) -> None:
        super().__init__(config)
        self._draining, self._seconds = draining, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining.set()
        close = (b"connection", b"close")
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline and not self.force_exit:  # a second signal
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        tracing.flush()  # here: uvicorn ends the process by the signal that stopped it


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """One `up` a data directory: two Redis servers on one file would ruin it.

    Raises:
        RMAdapterError: another one runs.
    """
    with (data_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RMAdapterError(f"another `rmadapter up` runs on {data_dir}") from error
        yield


def listen(settings: Settings) -> socket.socket:
    """The API's socket; port 0: any free one.

    Raises:
        RMAdapterError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that say they are TCP; else an answer waits
    # for the client's delayed acknowledgement of its head: 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise RMAdapterError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror};"
            " another --port may be free"
        ) from error
    return listener


@contextmanager
def stopped(settings: Settings) -> Iterator[Settings]:
    """What `up` would work on, Redis running, while no `up` does; with a Redis of its own: that.

    Raises:
        RMAdapterError: an `up` runs there.
    """
    if settings.redis_url:
        yield settings
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(settings.data_dir), embedded_redis(settings) as private:
        yield private


@contextmanager
def embedded_redis(settings: Settings) -> Iterator[Settings]:
    """The settings with a Redis: their own, or a private one in the data directory."""
    if settings.redis_url:
        yield settings
        return
    server = RedisServer(settings.data_dir / "redis")
    server.start()
    done = threading.Event()
    keeper = threading.Thread(target=_keep_redis, args=(server, done), daemon=True)
    keeper.start()
    try:
        yield settings.model_copy(update={"redis_url": server.url})
    finally:
        done.set()
        keeper.join()
        server.stop()


def _keep_redis(server: RedisServer, done: threading.Event) -> None:
    while not done.wait(_LOOK_SECONDS):
        if not server.running:
            log.warning("Redis ended; it is started again")
            try:
                server.start()
            except RMAdapterError as error:
                log.error("%s", error)


@contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    """A worker process, started again when it dies."""
    done = threading.Event()
    keeper = threading.Thread(target=_keep_worker, args=(settings, done), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _keep_worker(settings: Settings, done: threading.Event) -> None:
    process = _start_worker(settings)
    while not done.wait(_LOOK_SECONDS):
        if process.poll() is not None:
            log.warning("the worker ended (%s); it is started again", process.returncode)
            process = _start_worker(settings)
    process.terminate()
    try:
        process.wait(_WORKER_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _start_worker(settings: Settings) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "service", "worker", "--parent", str(os.getpid())]
    environment = os.environ | settings.environment()
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603


def _with_admin_key(settings: Settings) -> tuple[Settings, bool]:
    """The admin key of the settings, else that of the data directory, else a new one there."""
    if settings.admin_key is not None:
        return settings, False
    file = settings.data_dir / "admin.key"
    new = not file.exists()
    if new:
        write_secret(file, f"rma_admin_{secrets.token_urlsafe(24)}")
    key = SecretStr(file.read_text().strip())
    return settings.model_copy(update={"admin_key": key}), new


def _ensure_default_tenant(registry: Registry, data_dir: Path) -> None:
    """A tenant `default`, whose key lies in default.key for the other commands."""
    file = data_dir / "default.key"
    try:
        if file.exists():
            registry.tenants.authenticate(file.read_text().strip())
            return
    except Unauthorized:
        log.warning("the key in %s is not known; a new one is made", file)
    write_secret(file, _default_key(registry))


def _default_key(registry: Registry) -> str:
    cursor = None
    while True:
        page = registry.tenants.page(1000, cursor)
        for tenant in page.items:
            if tenant.name == "default":
                return registry.tenants.rotate(tenant.id)[1]
        if page.cursor is None:
            return registry.tenants.create("default")[1]
        cursor = page.cursor


def write_secret(file: Path, text: str) -> None:
    """For its owner's eyes alone, from the first byte on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text + "\n")
