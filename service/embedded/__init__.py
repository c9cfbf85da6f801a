"""`rmadapter up`: Redis, a worker and the API on one machine, keys in the data directory."""

import fcntl
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import SecretStr

from adapters.errors import RMAdapterError
from service.embedded.redis_server import RedisServer
from service.errors import OverQuota, Unauthorized
from service.http.server import listen, serve_app
from service.records import Records
from service.records.store import every
from service.settings import Settings
from service.wiring import open_components

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # the interval between checks that Redis and the worker still run
_WORKER_STOP_SECONDS = 10.0  # after that, the current fit is left for the next start


def up(settings: Settings) -> None:
    """Runs everything until a signal."""
    for name in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has stopped
        signal.signal(name, lambda *_: sys.exit(0))
    _make_private(settings.data_dir)
    with ExitStack() as stack:
        stack.enter_context(_alone(settings.data_dir))
        listener = stack.enter_context(listen(settings))
        settings, admin_key_is_new = _with_admin_key(settings)
        settings = stack.enter_context(embedded_redis(settings))
        stack.enter_context(_worker(settings))
        components = open_components(settings)
        ensure_default_tenant(components.records, settings.data_dir)
        host, port = listener.getsockname()[:2]
        url = f"http://{host}:{port}"
        listener.listen()  # before the next line, so that its reader can connect at once
        print(f"rmadapter is up: {url} (docs at {url}/docs), model {components.clip.name}")
        if admin_key_is_new and settings.admin_key:
            print(f"the admin key is in {settings.data_dir / 'admin.key'}")
        print(f"open {url} and sign in with the key in {settings.data_dir / 'default.key'}")
        if _elsewhere(settings):
            key = settings.data_dir / "default.key"
            print(f"for other commands: rmadapter login --url {url} --key-stdin < {key}")
        print(f"keys and data lie in {settings.data_dir}", flush=True)
        serve_app(components, listener, drain_seconds=0.0)  # no other server can take over


def _elsewhere(settings: Settings) -> bool:
    """Whether options of `up` put it where another command would not look for it."""
    usual = Settings()
    return (settings.port, settings.data_dir) != (usual.port, usual.data_dir)


def _make_private(folder: Path) -> None:
    """Makes the data directory, new or existing, accessible to its owner alone.

    Raises:
        RMAdapterError: it belongs to another user.
    """
    os.umask(0o077)  # of every file that this process and its worker make
    folder.mkdir(parents=True, exist_ok=True)
    try:
        folder.chmod(0o700)
    except PermissionError as error:
        raise RMAdapterError(
            f"{folder} belongs to another user; give another --data-dir"
        ) from error


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Allows one `up` per data directory: two Redis servers on one file would ruin it.

    Raises:
        RMAdapterError: another `up` runs on it.
    """
    with (data_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RMAdapterError(f"another `rmadapter up` runs on {data_dir}") from error
        yield


@contextmanager
def stopped(settings: Settings) -> Iterator[Settings]:
    """The settings with `up`'s stores, Redis running; an external Redis is used as it is.

    Raises:
        RMAdapterError: an `up` runs there.
    """
    if settings.redis_url:
        yield settings
        return
    _make_private(settings.data_dir)
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


def ensure_default_tenant(records: Records, data_dir: Path) -> None:
    """A tenant `default`, whose key lies in default.key for the other commands."""
    file = data_dir / "default.key"
    try:
        if file.exists():
            records.tenants.authenticate(file.read_text().strip())
            return
    except Unauthorized:
        log.warning("the key in %s is not known; a new one is made", file)
    try:
        write_secret(file, _default_key(records))
    except OverQuota as error:
        log.warning(
            "no key for tenant default is made here: %s; revoke one that is not used", error
        )


def _default_key(records: Records) -> str:
    """A new key of tenant `default`; other machines or apps may still use the existing ones.

    Raises:
        OverQuota: it has as many keys as allowed.
    """
    for tenant in every(records.tenants.page):
        if tenant.name == "default":
            return records.tenants.add_key(tenant.id, "manage")[1]
    return records.tenants.create("default")[1]


def write_secret(file: Path, text: str) -> None:
    """Writes a file that only its owner can read, from the first byte on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text + "\n")
