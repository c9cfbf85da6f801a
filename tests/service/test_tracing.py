"""One trace over a request and its fit, sent by OTLP; and nothing of it without an endpoint."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.demo.__main__ import PHOTOS
from tests.support.api import upload
from tests.support.cluster import Cluster
from training.data import read_samples


class Collector(BaseHTTPRequestHandler):
    """Keeps what is posted to /v1/traces: (service, span)."""

    spans: list = []  # noqa: RUF012 (of the one collector)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_fit_is_in_the_trace_of_the_request_that_asked_for_it(
    endpoint: str, tmp_path: Path
) -> None:
    samples = list(read_samples(PHOTOS))[::8]
    cluster = Cluster(tmp_path, servers=1, workers=1)
    processes = [*cluster.servers, *cluster.workers]
    for process in processes:
        process.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    with cluster.running():
        _, client = cluster.new_tenant()
        job = client.create_job(upload(client, samples), "a", params={"epochs": 1})
        assert [e["state"] for e in client.job_events(job["job"])][-1] == "succeeded"
        client.classify([("a.jpg", samples[0].data)], ["crab", "lotus"])
        for process in processes:
            process.stop()
    spans = {span.name: (service, span) for service, span in Collector.spans}
    assert "GET /readyz" not in spans
    service, asked = spans["POST /v1/jobs"]
    assert service == "rmadapter-api"
    service, fit = spans["fit"]
    assert service == "rmadapter-worker"
    assert (fit.trace_id, fit.parent_span_id) == (asked.trace_id, asked.span_id)
    assert {a.key: a.value.string_value for a in fit.attributes}["job"] == job["job"]
    _, classify = spans["POST /v1/classify"]
    for part in ("decode", "queue and device"):
        assert spans[part][1].trace_id == classify.trace_id


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    check = (
        "import sys\nfrom service import tracing\ntracing.set_up('x')\n"
        "with tracing.span('a'): print(tracing.here(), tracing.ids())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env={})
    assert done.stdout.split("\n")[:2] == ["None {}", "[]"], done.stderr


def test_an_endpoint_without_the_packages_is_a_clear_error() -> None:
    check = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from service import tracing\ntracing.set_up('x')"
    )
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=environment
    )
    assert "pip install 'rmadapter[otel]'" in done.stderr
