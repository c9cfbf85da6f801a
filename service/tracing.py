"""OpenTelemetry traces, once OTEL_EXPORTER_OTLP_ENDPOINT says where to: extra `otel`.

A trace begins with a request; a fit goes on with that of the request that asked for it. Without an
endpoint nothing is imported and a span costs nothing. OTEL_* variables are OpenTelemetry's own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapters.errors import RMAdapterError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.trace import Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_UNTRACED = "healthz,readyz,metrics"  # asked every few seconds

_tracer: "Tracer | None" = None


def set_up(service: str) -> None:
    """Sends this process's spans from now on, if there is an endpoint.

    Raises:
        RMAdapterError: there is one, and the packages are not installed.
    """
    global _tracer  # noqa: PLW0603 (one process, one tracer, as in OpenTelemetry itself)
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RMAdapterError(
            f"{_ENDPOINTS[0]} is set, and OpenTelemetry is not installed: "
            "pip install 'rmadapter[otel]'"
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("rmadapter")


def trace_requests(app: "FastAPI") -> None:
    """A span for each request of an application."""
    if _tracer is not None:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls=_UNTRACED)


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int) -> Iterator[None]:
    """Spans what is done within; `parent`: where another process said that it was, by `here`."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    with _tracer.start_as_current_span(name, context, attributes=attributes):
        yield


def is_on() -> bool:
    """Whether traces are sent anywhere."""
    return _tracer is not None


def flush() -> None:
    """Sends what has not been sent yet: the last thing that a process does."""
    if _tracer is not None:
        from opentelemetry import trace

        provider: Any = trace.get_tracer_provider()
        provider.shutdown()


def here() -> str | None:
    """The current span for another process: W3C's traceparent."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def ids() -> dict[str, str]:
    """The current span's `trace_id` and `span_id`, in hexadecimal; empty outside of any."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context: Any = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    trace_id, span_id = format_trace_id(context.trace_id), format_span_id(context.span_id)
    return {"trace_id": trace_id, "span_id": span_id}
