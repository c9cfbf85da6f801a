"""Several hosts on one machine: network namespaces on a bridge, each a host with its own address.

One holds Redis and an S3-protocol store, one each an API server or a worker. Nothing is shared but
the network, and a host's cable can be pulled.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
from pydantic import SecretStr

from service.client import Client, ClientError
from service.embedded.redis_server import find_server
from service.settings import Settings
from tests.support.api import ADMIN_KEY, upload
from tests.support.cluster import Process, Server, Worker
from tests.support.waiting import wait_for
from training.data import Sample

P = TypeVar("P", bound=Process)
SEEN_SECONDS = 1.0  # by then every host answers with what was published
TAKEN_UP_SECONDS = 25.0  # a lease of 8 s, the queue's own 15 s, and time to notice
_NET, _BRIDGE = "10.77.0", "rma-bridge"
_REDIS_PASSWORD = "between hosts"
_VISITS = 20  # publishes whose way to each host is timed
_LOAD_SECONDS = 15.0
_CLIENTS = 8


class Network:
    """A bridge; `host` adds a namespace with an address on it."""

    def __init__(self) -> None:
        self._hosts: list[str] = []

    def __enter__(self) -> "Network":
        self.__exit__()  # what a run that was killed left behind
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NET}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        listed = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            if line.startswith("rma-"):
                _ip("netns", "del", line.split()[0])
        subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True)

    def host(self, name: str) -> tuple[str, str]:
        """Its namespace and its address."""
        self._hosts.append(name)
        namespace, address = f"rma-{name}", f"{_NET}.{len(self._hosts) + 1}"
        _ip("netns", "add", namespace)
        _ip("link", "add", f"rma-v{name}", "type", "veth", "peer", "eth0", "netns", namespace)
        _ip("link", "set", f"rma-v{name}", "master", _BRIDGE, "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace, address

    def pull(self, name: str) -> None:
        """The cable."""
        _ip("link", "set", f"rma-v{name}", "down")

    def plug(self, name: str) -> None:
        _ip("link", "set", f"rma-v{name}", "up")


def available() -> bool:
    """May namespaces be made here?"""
    try:
        with Network() as network:
            network.host("probe")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Store(NamedTuple):
    """A running store, and the file that it prints to."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


class Hosts:
    """Servers and workers by the name of their host."""

    def __init__(self, folder: Path, network: Network, servers: int, workers: int) -> None:
        self._folder, self._network = folder, network
        self._stores, self._address = network.host("stores")
        self._settings = Settings().model_copy(
            update={
                "redis_url": f"redis://{self._address}:6379/0",
                "redis_password": SecretStr(_REDIS_PASSWORD),
                "blob_url": "s3://rmadapter",
                "data_dir": folder / "data",
                "admin_key": SecretStr(ADMIN_KEY),
            }
        )
        self.servers = {f"api{i}": self._server(f"api{i}") for i in range(servers)}
        self.workers = {f"worker{i}": self._worker(f"worker{i}") for i in range(workers)}
        self._clients = ExitStack()

    def _server(self, name: str) -> Server:
        host, address = self._network.host(name)
        own = self._settings.model_copy(update={"host": address})
        return self._placed(Server(own, self._folder / f"{name}.log"), host)

    def _worker(self, name: str) -> Worker:
        host, _ = self._network.host(name)
        return self._placed(Worker(self._settings, self._folder / f"{name}.log"), host)

    def _placed(self, process: P, host: str) -> P:
        process.host = host
        process.environment = {
            "AWS_ENDPOINT_URL": f"http://{self._address}:5000",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "RMADAPTER_REDIS_PASSWORD": _REDIS_PASSWORD,
            "RMADAPTER_ADMIN_KEY": ADMIN_KEY,
        }
        return process

    @contextmanager
    def running(self) -> Iterator["Hosts"]:
        everything: list[Process] = [*self.servers.values(), *self.workers.values()]
        with ExitStack() as stack:
            stack.enter_context(self._clients)
            stores = [stack.enter_context(self._store(n, c)) for n, c in self._store_commands()]
            wait_for(lambda: self._bucket_is_there(stores))
            for process in everything:
                stack.callback(process.kill)
                process.start()
            for process in (*self.servers.values(), *self.workers.values()):
                process.wait()
            yield self

    @contextmanager
    def _store(self, name: str, command: list[str]) -> Iterator[Store]:
        """Runs one of the stores on their host; what it prints goes to a file."""
        log = self._folder / f"{name}.log"
        inside = ["ip", "netns", "exec", self._stores, *command]
        with log.open("wb") as stream:
            process = subprocess.Popen(inside, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield Store(name, process, log)
        finally:
            process.kill()
            process.wait()

    def _store_commands(self) -> list[tuple[str, list[str]]]:
        folder = self._folder / "redis"
        folder.mkdir()
        redis = [str(find_server()), "--bind", self._address, "--requirepass", _REDIS_PASSWORD]
        redis += ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder)]
        moto = f"from moto.server import main; main(['-H', '{self._address}', '-p', '5000'])"
        return [("redis", redis), ("s3", [sys.executable, "-c", moto])]

    def _bucket_is_there(self, stores: list[Store]) -> bool:
        for store in stores:
            assert store.process.poll() is None, f"{store.name} ended: {store.log.read_text()}"
        with suppress(httpx.HTTPError):
            return httpx.put(f"http://{self._address}:5000/rmadapter").is_success
        return False

    def new_tenant(self, server: str) -> Client:
        """A client of one server; `through` gives the same tenant's of another."""
        with Client(self.servers[server].url, ADMIN_KEY, wait_seconds=0) as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": "a tenant"})
        return self.through(server, made["api_key"])

    def through(self, server: str, api_key: str) -> Client:
        return self._clients.enter_context(
            Client(self.servers[server].url, api_key, wait_seconds=0)
        )


class Journey:
    """One tenant's classifier, made by one host after another."""

    def __init__(self, hosts: Hosts, network: Network, samples: list[Sample]) -> None:
        self.hosts, self.network, self.samples = hosts, network, samples
        first = next(iter(hosts.servers))
        made = hosts.new_tenant(first)
        api_key = made.http.headers["authorization"].split()[1]
        self.clients = {name: hosts.through(name, api_key) for name in hosts.servers}

    def fit(self, server: str, **params: int) -> str:
        """Uploads through one host and asks it for a fit; the job."""
        client = self.clients[server]
        dataset = upload(client, self.samples)
        job = client.create_job(dataset, "things", params=params, publish=False)  # one version
        return str(job["job"])

    def wait(self, server: str, job: str) -> None:
        states = [event["state"] for event in self.clients[server].job_events(job)]
        assert states[-1] == "succeeded", states

    def version(self, server: str) -> int:
        """Which one answers, by a host."""
        photo = self.samples[0]
        answer = self.clients[server].classify([(photo.name, photo.data)], None, "things")
        return int(answer["version"])

    def publish_and_look(self, publisher: str, version: int) -> float:
        """Seconds from a publish's answer until every host has answered with it."""
        self.clients[publisher].publish("things", version)
        started = time.monotonic()
        for name in self.clients:
            while self.version(name) != version:
                pass
        return time.monotonic() - started

    def cut_off(self, name: str, version: int) -> float:
        """Pulls a server's cable, publishes meanwhile, and plugs it in: seconds until it answers
        with what it has missed."""
        others = [other for other in self.clients if other != name]
        self.network.pull(name)
        try:
            self.clients[others[0]].publish("things", version)
            for other in others:
                assert self.version(other) == version
        finally:
            self.network.plug(name)
        started = time.monotonic()
        while True:
            with suppress(ClientError):
                if self.version(name) == version:
                    return time.monotonic() - started
            time.sleep(0.1)

    def cut_off_worker(self, server: str) -> float:
        """Pulls the cable of the worker that fits: seconds until another one has the job, which
        must end once, whatever the first one does when it is back."""
        job = self.fit(server, epochs=40)
        client = self.clients[server]
        path = f"/v1/jobs/{job}"
        wait_for(lambda: (client.call("GET", path)["progress"] or {}).get("step", 0) > 0)
        held = [n for n, w in self.hosts.workers.items() if f"job {job}: attempt 1" in w.text()]
        (name,) = held
        before = len(client.call("GET", "/v1/adapters/things")["versions"])
        self.network.pull(name)
        started = time.monotonic()
        try:
            others = [w for n, w in self.hosts.workers.items() if n != name]
            again = f"job {job}: attempt 2"
            wait_for(lambda: any(again in other.text() for other in others), 60.0)
            taken_up = time.monotonic() - started
        finally:
            self.network.plug(name)
        self.wait(server, job)
        time.sleep(5.0)  # the one that is back finds that its lease is gone
        assert len(client.call("GET", "/v1/adapters/things")["versions"]) == before + 1
        return taken_up

    def load(self, servers: list[str]) -> float:
        """Pictures a second that some servers answer, each client asking them in turn."""
        photo = self.samples[0]
        end = time.monotonic() + _LOAD_SECONDS

        def ask(number: int) -> int:
            done = 0
            while time.monotonic() < end:
                client = self.clients[servers[(number + done) % len(servers)]]
                with suppress(ClientError):
                    client.classify([(photo.name, photo.data)], None, "things")
                    done += 1
            return done

        with ThreadPoolExecutor(_CLIENTS) as pool:
            return sum(pool.map(ask, range(_CLIENTS))) / _LOAD_SECONDS


def run(folder: Path, samples: list[Sample]) -> dict[str, Any]:
    """Four API servers and two workers, each a host."""
    with Network() as network, Hosts(folder, network, servers=4, workers=2).running() as hosts:
        journey = Journey(hosts, network, samples)
        names = list(hosts.servers)
        for _ in range(2):
            journey.wait(names[1], journey.fit(names[0], epochs=1))
        journey.clients[names[0]].publish("things", 2)
        seen = [
            journey.publish_and_look(names[i % 4], 1 + i % 2) for i in range(_VISITS)
        ]  # 2 is published, so that each of these changes what answers
        back = journey.cut_off(names[0], 1 if journey.version(names[0]) == 2 else 2)
        rates = {n: round(journey.load(names[:n]), 1) for n in (1, 2, 4)}
        taken_up = journey.cut_off_worker(names[2])
    bounds = []
    if max(seen) > SEEN_SECONDS:
        bounds.append(f"a publish was seen by all after more than {SEEN_SECONDS:g} s")
    if taken_up > TAKEN_UP_SECONDS:
        bounds.append(f"a cut worker's job was taken up after more than {TAKEN_UP_SECONDS:g} s")
    return {
        "hosts": len(names) + 3,
        "cores of the machine": os.cpu_count(),
        "a publish seen by four hosts, median and slowest, seconds": [
            round(statistics.median(seen), 3),
            round(max(seen), 3),
        ],
        "a host that was cut off answers with what it missed after, seconds": round(back, 2),
        "a cut worker's job is taken up after, seconds": round(taken_up, 1),
        "pictures a second by API servers": rates,
        "bounds not kept": bounds,
        "losses": [],
    }
