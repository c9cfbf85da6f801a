"""The image's steps, run: docker/Dockerfile instruction by instruction in a clean root, as root.

python -m tests.soak.image --base DIR [--extra cpu]

Where there is no Docker engine. DIR holds what `FROM` stands for, made by

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie DIR

whose Python is another one than the image's; packages, hashes and steps are the same. In the end
the image's command runs as its user on a read-only root, and answers.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

from service.embedded.redis_server import RedisServer
from tests.support.api import is_ready
from tests.support.cluster import free_port
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OF_THE_HOST = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
_START_SECONDS = 300.0


@dataclass
class Stage:
    """One FROM and what followed."""

    name: str
    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH, "HOME": "/root"})
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def run(self, command: list[str], **options: object) -> "subprocess.Popen[str]":
        """In the root, as its user."""
        inside = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), *command]
        return subprocess.Popen(inside, env=self.environment | self.arguments, text=True, **options)


class Build:
    """Goes through a Dockerfile."""

    def __init__(self, base: Path, folder: Path, extra: str, stack: ExitStack) -> None:
        self._base, self._folder, self._extra, self._stack = base, folder, extra, stack
        self.stages: list[Stage] = []
        self.seconds: dict[str, float] = {}

    def follow(self, dockerfile: Path) -> Stage:
        for step in DockerfileParser(fileobj=dockerfile.open("rb")).structure:
            name, value = step["instruction"], step["value"]
            if name == "COMMENT":
                continue
            print(f"{name} {value[:100]}", flush=True)
            started = time.monotonic()
            getattr(self, f"_{name.lower()}")(value)
            self.seconds[f"{name} {value[:60]}"] = round(time.monotonic() - started, 1)
        return self.stages[-1]

    def _from(self, value: str) -> None:
        name = value.partition(" AS ")[2] or str(len(self.stages))
        root = self._stack.enter_context(overlay(self._base, self._folder / name))
        for tool in ("python", "pip"):
            link = root / "usr/local/bin" / tool
            if (root / f"usr/bin/{tool}3").exists() and not link.exists():
                link.symlink_to(f"/usr/bin/{tool}3")
        for file in map(Path, _OF_THE_HOST):
            if file.exists():
                (root / file.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, root / file.relative_to("/"))
        self.stages.append(Stage(name, root))

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self.stages[-1].arguments[name] = self._extra if name == "EXTRA" else default

    def _env(self, value: str) -> None:
        stage = self.stages[-1]
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            known = stage.environment.get("PATH", "")
            stage.environment[name] = text.replace("$PATH", known)

    def _run(self, value: str) -> None:
        done = self.stages[-1].run(["/bin/sh", "-c", value]).wait()
        if done:
            sys.exit(f"RUN ended with {done}: {value}")

    def _copy(self, value: str) -> None:
        *sources, target = [word for word in value.split() if not word.startswith("--from=")]
        origin = ROOT
        if value.startswith("--from="):
            wanted = value.split(maxsplit=1)[0].removeprefix("--from=")
            origin = next(stage.root for stage in self.stages if stage.name == wanted)
        place = self.stages[-1].root / target.lstrip("/")
        for source in (origin / source.lstrip("/") for source in sources):
            if source.is_dir():
                shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)

    def _user(self, value: str) -> None:
        stage = self.stages[-1]
        stage.user = value
        users = (stage.root / "etc/passwd").read_text().splitlines()
        homes = {line.split(":")[2]: line.split(":")[5] for line in users}
        stage.environment["HOME"] = homes[value]  # as Docker sets it

    def _entrypoint(self, value: str) -> None:
        self.stages[-1].command = json.loads(value)

    def _cmd(self, value: str) -> None:
        self.stages[-1].command += json.loads(value)

    def _healthcheck(self, value: str) -> None:
        self.stages[-1].health = json.loads(value.partition("CMD ")[2])

    def _volume(self, value: str) -> None: ...

    def _expose(self, value: str) -> None: ...


@contextmanager
def overlay(base: Path, folder: Path) -> Iterator[Path]:
    """A root of its own above the base, with the machine's /proc and /dev."""
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for place in (upper, work, root):
        place.mkdir(parents=True)
    layers = f"lowerdir={base},upperdir={upper},workdir={work}"
    with ExitStack() as stack:
        stack.enter_context(mounted("-t", "overlay", "overlay", "-o", layers, str(root)))
        for name in ("proc", "dev"):
            stack.enter_context(mounted("--bind", f"/{name}", str(root / name)))
        yield root


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


def serve(stage: Stage, folder: Path, stack: ExitStack) -> None:
    """The image's command as Compose runs it: read-only, as its user; its volumes are writable."""
    redis = RedisServer(folder / "redis")
    redis.start()
    stack.callback(redis.kill)
    socket = Path(redis.url.removeprefix("unix://").partition("?")[0])
    (stage.root / "redis").mkdir()
    stack.enter_context(mounted("--bind", str(socket.parent), str(stage.root / "redis")))
    for name in ("tmp", "data", "graphs"):
        stack.enter_context(
            mounted("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(stage.root / name))
        )
    for place in (socket.parent, socket):
        place.chmod(0o777)
    subprocess.run(["mount", "-o", "remount,ro", str(stage.root)], check=True)
    port = free_port()
    stage.environment |= {
        "RMADAPTER_REDIS_URL": f"unix:///redis/{socket.name}",
        "RMADAPTER_BLOB_URL": "file:///data/blobs",
        "RMADAPTER_MODEL": "bundled",
        "RMADAPTER_PORT": str(port),
    }
    assert stage.run(["/bin/sh", "-c", "touch /usr/x 2>/dev/null"]).wait() != 0
    print(f"{' '.join(stage.command)} as user {stage.user}", flush=True)
    server = stage.run(stage.command)
    stack.callback(server.wait)
    stack.callback(server.kill)
    wait_for(lambda: _is_ready(server, port), _START_SECONDS)
    health = [part.replace(":8000", f":{port}") for part in stage.health]
    assert stage.run(health).wait() == 0
    assert stage.run([stage.command[0], "doctor"]).wait() == 0
    uid = Path(f"/proc/{server.pid}/status").read_text().split("Uid:")[1].split()[0]
    assert uid == stage.user, uid


def _is_ready(server: "subprocess.Popen[str]", port: int) -> bool:
    assert server.poll() is None, "it has ended"
    return is_ready(f"http://127.0.0.1:{port}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.image", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="what FROM stands for")
    parser.add_argument("--extra", choices=("gpu", "cpu"), default="gpu")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("mounting needs root")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        build = Build(options.base.absolute(), folder, options.extra, stack)
        last = build.follow(ROOT / "docker" / "Dockerfile")
        size = subprocess.run(
            ["du", "-sm", last.root / "opt"], capture_output=True, text=True
        ).stdout.split()[0]
        serve(last, folder, stack)
        print(json.dumps(build.seconds, indent=1))
        print(f"the image's steps ran, and its command answers; /opt holds {size} MB")


if __name__ == "__main__":
    main()
