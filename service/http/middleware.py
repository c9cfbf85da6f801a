"""What wraps every request: its id, its metrics, and the limit of its body."""

import logging
import re
import time
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, metrics
from service.errors import TooLarge
from service.http.custom_vision import takes_picture
from service.settings import Settings

log = logging.getLogger("rmadapter.access")

_PICTURE_PATHS = ("/classify", "/v1/classify", "/v1/embeddings")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # others would forge lines of a log
_UNLOGGED = ("/healthz", "/readyz", "/metrics")  # called every few seconds by machines
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # a client may make up any


def route_path(scope: Scope) -> str:
    """The path that a request asks for, without a proxy's prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def takes_pictures(path: str) -> bool:
    """Whether a path classifies pictures or embeds them, which a classify key may ask for."""
    return path in _PICTURE_PATHS or takes_picture(path)


class Prefix:
    """Tells the router of a proxy's prefix, whether the proxy cut it off or left it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it: see ASGI."""
        if scope["type"] == "http" and self._prefix:
            path = scope["path"]
            if path == self._prefix:  # the console's page names its files beside itself
                await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
                return
            if not path.startswith(f"{self._prefix}/"):
                path = self._prefix + path
            scope = {**scope, "path": path, "root_path": self._prefix}
        await self._app(scope, receive, send)


class Observe:
    """Answers with `x-request-id`, the client's own if it sent one; counts and logs by route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it: see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.monotonic(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if location := headers.get("location"):  # never to the host that a client names
                    headers["location"] = urlsplit(location)._replace(scheme="", netloc="").geturl()
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


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The largest body in bytes, by its route and media type.

    Forms carry files and are read in pieces. JSON is held in memory completely: pictures in base64
    on the routes that classify, a few names on all others.
    """

    form: int
    pictures: int
    picture: int  # a body that is a picture itself, as Custom Vision's API takes it
    records: int = 64 * 2**10

    @classmethod
    def of(cls, settings: Settings) -> "BodyLimits":
        """The limits that follow from the settings."""
        most = settings.max_images * (settings.max_image_bytes * 4 // 3 + 1024) + 2**20
        body = settings.max_body_bytes
        return cls(body, min(most, body), min(settings.max_image_bytes, body))

    def limit(self, path: str, media_type: str) -> int:
        """The largest body of a request to `path`."""
        if takes_picture(path):  # one picture, with a form's few bytes around it
            return self.records + (0 if media_type == "application/json" else self.picture)
        if media_type == "multipart/form-data":
            return self.form
        return self.pictures if takes_pictures(path) else self.records


class BodyLimit:
    """Refuses a body over the limit: by its length where it says one, else when it gets there."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it: see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        limit = self._limits.limit(route_path(scope), media_type_of(headers))
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            if length.isdecimal() and int(length) > limit:
                raise _too_large(limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, receive_limited, send)


def media_type_of(headers: Headers) -> str:
    """The media type of a request's body, without its parameters, in small letters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit:,} bytes")
