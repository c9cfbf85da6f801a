"""Stopping a server loses no request: those it accepted are answered, others go elsewhere."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection

import httpx
import pytest

from service.client import Client, ClientError
from tests.support.api import is_ready as is_ready_at
from tests.support.api import upload
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from training.data import Sample


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, servers=2, workers=0, drain_seconds=2.5).running() as running:
        yield running


def is_ready(port: int) -> bool:
    return is_ready_at(f"http://127.0.0.1:{port}")


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", timeout=5)
    except httpx.ConnectError:
        return True
    return False


def test_a_connection_that_was_idle_for_a_while_takes_the_next_request(cluster: Cluster) -> None:
    """Balancers keep them for a minute. uvicorn by itself closes them after five seconds, and what
    is sent in that moment fails."""
    connection = HTTPConnection("127.0.0.1", cluster.servers[0].settings.port)
    connection.connect()
    connection.auto_open = 0  # no other in its place
    for pause in (6.0, 0.0):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        time.sleep(pause)
    connection.close()


def test_a_rolling_restart_fails_no_request(cluster: Cluster, samples: list[Sample]) -> None:
    """Two servers behind a balancer that asks /readyz and tries the other on a refusal alone."""
    ports = [server.settings.port for server in cluster.servers]
    with Proxy(ports, is_ready) as balancer:
        _, client = cluster.new_tenant(balancer.url)
        dataset = client.create_dataset("photos")
        done, failures, stop = Counter[str](), list[str](), threading.Event()

        def classify() -> None:
            client.classify([(samples[0].name, samples[0].data)], ["a", "b"])

        def send(client: Client) -> None:
            path = f"/v1/datasets/{dataset}/images"
            files = [("files", (samples[0].name, samples[0].data))]
            client.call("POST", path, data={"label": "crab"}, files=files)

        def load(name: str, step) -> None:
            while not stop.is_set():
                try:
                    step()
                    done[name] += 1
                except ClientError as error:
                    failures.append(f"{name}: {error.status} {error}")

        steps = {"classify": classify, "upload": lambda: send(client)}
        threads = [threading.Thread(target=load, args=item) for item in (*steps.items(),) * 2]
        for thread in threads:
            thread.start()
        try:
            for server in cluster.servers:
                wait_for(lambda: all(map(is_ready, ports)))
                before = done.total()
                server.stop()
                assert done.total() > before  # the other one, and this one till it stopped
                server.start()
                server.wait()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert set(done) == set(steps)


def test_a_stopping_server_turns_balancers_away_finishes_what_it_has_and_closes(
    cluster: Cluster, samples: list[Sample]
) -> None:
    server = cluster.servers[0]
    _, client = cluster.new_tenant(server.url)
    job = client.create_job(_two_classes(client, samples), "things")["job"]  # there is no worker
    events, answers = list[str](), list[dict]()

    def follow() -> None:
        with client.http.stream("GET", f"/v1/jobs/{job}/events") as stream:
            events.extend(stream.iter_lines())

    def classify_many() -> None:
        files = [(sample.name, sample.data) for sample in samples[::4]]
        answers.append(client.classify(files, ["crab", "lotus"]))

    threads = [threading.Thread(target=work) for work in (follow, classify_many)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)  # both are on their way
    server.send(signal.SIGTERM)
    wait_for(lambda: not is_ready(server.settings.port))
    late = client.http.post("/v1/datasets", json={"name": "while it drains"})
    assert (late.status_code, late.headers["connection"]) == (201, "close")
    for thread in threads:
        thread.join()
    assert [len(answer["results"]) for answer in answers] == [len(samples[::4])]
    assert "event: progress" in events and "event: end" not in events
    wait_for(lambda: not server.running, 20)
    assert refuses(server.url)


def _two_classes(client: Client, samples: list[Sample]) -> str:
    return upload(client, [samples[0], samples[24]])
