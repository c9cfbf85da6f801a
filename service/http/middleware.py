"""What wraps every request: its id, its metrics, and the limit of its body."""

import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, metrics
from service.errors import TooLarge

log = logging.getLogger("rmadapter.access")

_MAX_REQUEST_ID = 128
_UNLOGGED = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, by nobody
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # a client may make up any


class Observe:
    """Answers with `x-request-id`, the client's own if it sent one; counts and logs by route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if 0 < len(given) <= _MAX_REQUEST_ID else uuid.uuid4().hex
        started, status = time.monotonic(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with logs.about(request_id=request_id):
            try:
                await self._app(scope, receive, send_counted)
            finally:
                self._done(scope, status, time.monotonic() - started)

    def _done(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.REQUESTS.labels(method, route, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(method, route).observe(seconds)
        if route not in _UNLOGGED:
            ms = round(1000 * seconds, 1)
            line = {"method": method, "route": route, "status": status, "ms": ms}
            log.info("%s %s %d %.1f ms", *line.values(), extra=line)


class BodyLimit:
    """Refuses a body over the limit: by its length where it says one, else when it gets there."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            if length.isdecimal() and int(length) > self._limit:
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, receive_limited, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over {self._limit:,} bytes")
