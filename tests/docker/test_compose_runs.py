"""docker-compose.yml's redis, two of its api, its worker and its proxy, run as plain processes.

Commands, environments, secrets and nginx.conf are the files' own. What containers have and
processes lack is put in: hosts' names become addresses, /run/secrets and /data become folders.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis

from service.client import Client
from service.embedded.redis_server import find_server
from tests.support.api import is_ready, run_job, upload
from tests.support.cluster import free_port
from tests.support.compose import CPU, MAIN, load
from tests.support.paths import ROOT
from tests.support.waiting import wait_for
from training.data import Sample

APIS = ("127.0.0.2", "127.0.0.3")


@dataclass
class Deployment:
    """The processes of one deployment, by name."""

    folder: Path
    secrets: Path
    compose: dict = field(default_factory=lambda: load(MAIN, CPU))
    redis_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log
            )

    def start_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir()
        shell, flag, script = self.compose["services"]["redis"]["command"]
        for name, here in (
            ("redis-server -", f"{find_server()} - --bind 127.0.0.1 --port {self.redis_port}"),
            ("--dir /data", f"--dir {data}"),
            ("/run/secrets", str(self.secrets)),
        ):
            assert name in script
            script = script.replace(name, here)
        self.start("redis", [shell, flag, script], dict(os.environ))

    def start_ours(self, service: str, name: str, host: str) -> None:
        described = self.compose["services"][service]
        given = {key: str(value) for key, value in described["environment"].items()}
        given["RMADAPTER_REDIS_URL"] = given["RMADAPTER_REDIS_URL"].replace(
            "redis:6379", f"127.0.0.1:{self.redis_port}"
        )
        given["RMADAPTER_BLOB_URL"] = given["RMADAPTER_BLOB_URL"].replace(
            "/data", str(self.folder / "data")
        )
        if "RMADAPTER_HOST" in given:  # 0.0.0.0 of a container is an address of its own here
            given |= {"RMADAPTER_HOST": host, "RMADAPTER_PORT": str(self.api_port)}
            given["RMADAPTER_API_METRICS_PORT"] = str(self.metrics_port)
        given["RMADAPTER_WORKER_METRICS_PORT"] = str(free_port())  # one host has all of them here
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("RMADAPTER_", "AWS_"))}
        place = {"RMADAPTER_SECRETS_DIR": str(self.secrets), "RMADAPTER_BACKEND": "torch"}
        command = [sys.executable, "-m", "service", *described["command"]]
        self.start(name, command, plain | given | place)

    def admin(self, url: str) -> Client:
        return Client(url, (self.secrets / "rmadapter_admin_key").read_text())

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            process.wait(60)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, secrets_dir: Path) -> Iterator[Deployment]:
    running = Deployment(tmp_path_factory.mktemp("deployment"), secrets_dir)
    try:
        running.start_redis()
        for number, host in enumerate(APIS):
            running.start_ours("api", f"api{number}", host)
        running.start_ours("worker", "worker", "")
        urls = [f"http://{host}:{running.api_port}" for host in APIS]
        wait_for(lambda: all(map(is_ready, urls)))
        yield running
    finally:
        running.stop()


def test_redis_wants_the_password_of_the_file_and_has_it_in_no_list_of_processes(
    deployment: Deployment,
) -> None:
    password = (deployment.secrets / "rmadapter_redis_password").read_text()
    port = deployment.redis_port
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port, retry=None).ping()
    known = redis.Redis(port=port, password=password, decode_responses=True)
    assert known.config_get("append*")["appendonly"] == "yes"
    assert known.config_get("append*")["appendfsync"] == "always"
    for process in deployment.processes.values():
        place = Path(f"/proc/{process.pid}")
        if place.exists():
            assert password not in (place / "cmdline").read_text()
            assert password not in (place / "environ").read_text()


def test_what_one_server_takes_in_and_the_worker_fits_the_other_answers_with(
    deployment: Deployment, samples: list[Sample]
) -> None:
    first, second = (f"http://{host}:{deployment.api_port}" for host in APIS)
    with deployment.admin(first) as admin:
        key = admin.call("POST", "/v1/tenants", json={"name": "a tenant"})["api_key"]
    names = sorted({sample.label for sample in samples})[:2]
    few = [s for name in names for s in [s for s in samples if s.label == name][:2]]
    with Client(first, key) as client:
        job = run_job(client, upload(client, few), "things", params={"epochs": 2})
    assert job["state"] == "succeeded", job
    with Client(second, key) as client:
        answer = client.classify([("a.jpg", few[0].data)], None, "things")
    assert answer["results"][0]["label"] == few[0].label
    assert answer["version"] == job["version" if job["published"] else "instant_version"]


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_the_proxy_spreads_over_the_servers_and_passes_over_one_that_is_gone(
    deployment: Deployment,
) -> None:
    with names_server(APIS) as names, proxy(deployment, names) as url:
        wait_for(lambda: is_ready(url))
        before = [_answered(deployment, host) for host in APIS]
        with deployment.admin(url) as admin:
            for _ in range(40):
                admin.call("GET", "/v1/tenants")
            after = [_answered(deployment, host) for host in APIS]
            assert all(b > a for a, b in zip(before, after, strict=True))
            assert httpx.get(f"{url}/metrics").status_code == 404
            deployment.processes["api1"].kill()
            deployment.processes["api1"].wait()
            for number in range(10):
                admin.call("POST", "/v1/tenants", json={"name": f"tenant {number}"})


def _answered(deployment: Deployment, host: str) -> int:
    text = httpx.get(f"http://{host}:{deployment.metrics_port}/metrics").text
    lines = [line for line in text.splitlines() if 'route="/v1/tenants"' in line]
    return sum(int(float(line.split()[-1])) for line in lines if "requests_total" in line)


@contextmanager
def proxy(deployment: Deployment, names_port: int) -> Iterator[str]:
    """The proxy's own command with its own file."""
    port = free_port()
    conf = (ROOT / "docker" / "nginx.conf").read_text()
    for there, here in (
        ("127.0.0.11", f"127.0.0.1:{names_port}"),
        ("$api:8000", f"$api:{deployment.api_port}"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/tmp/", f"{deployment.folder}/"),
    ):
        assert there in conf
        conf = conf.replace(there, here)
    file = deployment.folder / "rmadapter.conf"
    file.write_text(conf)
    command = list(deployment.compose["services"]["proxy"]["command"])
    command[command.index("/etc/nginx/rmadapter.conf")] = str(file)
    command[-1] += f" user {'root' if os.getuid() == 0 else 'nobody'};"
    deployment.start("proxy", command, dict(os.environ))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        deployment.processes["proxy"].terminate()
        deployment.processes.pop("proxy").wait(60)


@contextmanager
def names_server(addresses: tuple[str, ...]) -> Iterator[int]:
    """Docker's DNS in small: every name has these addresses. Yields its UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_answer_names, args=(server, addresses))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.sendto(b"", server.getsockname())
            thread.join()


def _answer_names(server: socket.socket, addresses: tuple[str, ...]) -> None:
    while True:
        query, sender = server.recvfrom(512)
        if not query:
            return
        question = query[12 : query.index(b"\0", 12) + 5]
        head = query[:2] + struct.pack(">5H", 0x8180, 1, len(addresses), 0, 0)
        record = struct.pack(">3HIH", 0xC00C, 1, 1, 1, 4)
        answers = b"".join(record + socket.inet_aton(address) for address in addresses)
        server.sendto(head + question + answers, sender)
