"""Logs: a line of text or a JSON object each, with the request, tenant, job and trace it is of."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from service import tracing

_TEXT = "%(levelname)s %(name)s: %(message)s%(context)s"
# The exporter's own lines, hundreds of them, are for those who write exporters.
_QUIETER = {"httpx": "WARNING", "onnxscript": "ERROR", "onnx_ir": "ERROR", "torch.onnx": "ERROR"}
_FIELDS = ("request_id", "tenant", "job", "trace_id", "span_id")
# A dictionary that is added to, not replaced: what a thread of a request learns, the request knows.
_about: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every line that is logged within says so of itself."""
    token = _about.set((_about.get() or {}) | fields)
    try:
        yield
    finally:
        _about.reset(token)


def note(**fields: str) -> None:
    """Adds to what the surrounding `about` says."""
    if (known := _about.get()) is not None:
        known.update(fields)


def set_up(style: Literal["text", "json"], level: str) -> None:
    """All loggers of this process, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_context)
    handler.setFormatter(_Json() if style == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(least)


def _add_context(record: logging.LogRecord) -> bool:
    known = (_about.get() or {}) | tracing.ids()
    for name in _FIELDS:
        if name in known:
            setattr(record, name, known[name])
    record.context = f" [{known['request_id']}]" if "request_id" in known else ""
    return True


class _Json(JsonFormatter):
    """Field names as Loki, Elasticsearch and Cloud Logging expect them."""

    def __init__(self) -> None:
        names = {"levelname": "level", "name": "logger"}
        super().__init__("%(levelname)s %(name)s %(message)s", rename_fields=names)

    def add_fields(
        self,
        log_data: dict[str, object],
        record: logging.LogRecord,
        message_dict: dict[str, object],
    ) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        super().add_fields(log_data, record, message_dict)
        log_data.pop("context", None)
