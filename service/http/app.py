"""Makes the application, and maps every error to its answer, here alone."""

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Lifespan

from adapters.errors import (
    BadArtifact,
    BadClasses,
    BadDataset,
    BadImage,
    DoesNotFit,
    RMAdapterError,
)
from service import __version__
from service.errors import (
    MAX_PROBLEMS,
    ClientGone,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthorized,
    Unavailable,
    problems_of,
)
from service.http import custom_vision
from service.http.auth import Gate
from service.http.document import generate, operation_id
from service.http.fetching import Fetcher, FetchLimits
from service.http.forms import accept_extended_file_names
from service.http.middleware import BodyLimit, BodyLimits, Observe, Prefix, route_path
from service.http.routes import (
    adapters,
    classify,
    datasets,
    docs,
    health,
    jobs,
    keys,
    predict,
    quotas,
    tenants,
    web,
)
from service.http.schemas import ProblemOut
from service.http.watching import Watch
from service.wiring import Components

log = logging.getLogger(__name__)

_STATUS: dict[type[RMAdapterError], tuple[int, str]] = {
    Unauthorized: (401, "Unauthorized"),
    Forbidden: (403, "Forbidden"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Conflict"),
    TooLarge: (413, "Too large"),
    Invalid: (422, "Invalid request"),
    BadClasses: (422, "Invalid class names"),
    BadDataset: (422, "Data set not fit for a fit"),
    BadImage: (422, "Invalid picture"),
    TooMany: (429, "Too many requests"),
    TooSlow: (408, "Request timeout"),
    ClientGone: (499, "Client closed request"),
    BadArtifact: (500, "Adapter file unusable"),
    DoesNotFit: (500, "Adapter does not fit this server"),
    Unavailable: (503, "Unavailable"),
}
_TAGS = [
    {"name": "classify", "description": "Answers for photos and texts. Any key of a tenant."},
    {
        "name": "custom vision",
        "description": "Azure Custom Vision's prediction API, for apps that move here."
        " Any key of a tenant.",
    },
    {
        "name": "data sets",
        "description": "Labelled photos, to fit an adapter on. Needs a `manage` key.",
    },
    {
        "name": "jobs",
        "description": "A job is one fit, which a worker runs. Needs a `manage` key.",
    },
    {
        "name": "adapters",
        "description": "What a fit makes: an adapter has versions, and one of them is live.",
    },
    {"name": "keys", "description": "A tenant's own API keys. Needs a `manage` key."},
    {"name": "tenants", "description": "For the administrator. Needs the admin key."},
    {"name": "health", "description": "For balancers and monitoring. Needs no key."},
]
_FIELD: dict[type[RMAdapterError], str] = {BadClasses: "classes", BadDataset: "dataset"}


def document() -> dict[str, Any]:
    """The OpenAPI document of the API; nothing runs for it."""
    app = _bare()
    _include(app)
    return app.openapi()


def create_app(components: Components) -> FastAPI:
    """The application over these components; it starts and stops their engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        components.engine.start()
        yield
        components.engine.stop()

    accept_extended_file_names()
    app = _bare(lifespan)
    app.state.components = components
    app.state.fetcher = Fetcher(FetchLimits.of(components.settings))
    app.state.watch = Watch(components.records.jobs.get)
    _include(app)
    web.mount(app)
    docs.mount(app)
    app.add_middleware(Gate, components=components)
    app.add_middleware(BodyLimit, limits=BodyLimits.of(components.settings))
    if origins := components.settings.allowed_origins():
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Observe)
    app.add_middleware(custom_vision.CustomVision)
    app.add_middleware(Prefix, prefix=components.settings.root_path())
    app.add_exception_handler(RMAdapterError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(OSError, _on_system_error)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _bare(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    problem = {"model": ProblemOut, "content": {"application/problem+json": {}}}
    app = FastAPI(
        title="rmadapter",
        summary="An image classifier of their own for every tenant, on one shared CLIP",
        version=__version__,
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        openapi_tags=_TAGS,
        docs_url=None,  # service.http.routes.docs has pages without a CDN and without script
        redoc_url=None,
        responses={
            "4XX": problem | {"description": "refused; `errors` names the fields"},
            "5XX": problem | {"description": "failed here; `Retry-After` says when to come again"},
        },
    )
    app.openapi = lambda: generate(app)  # type: ignore[method-assign]
    return app


def _include(app: FastAPI) -> None:
    for routes in (tenants, keys, quotas, datasets, jobs, adapters, classify, predict, health):
        app.include_router(routes.router)


def _on_domain_error(request: Request, error: Exception) -> JSONResponse:
    kind = next((c for c in type(error).__mro__ if c in _STATUS), None)
    if kind is None:
        return _on_bug(request, error)
    status, title = _STATUS[kind]
    if status >= 500:
        log.warning("%s %r: %s", request.method, request.url.path, error)
    problems = error.problems if isinstance(error, Invalid | TooMany) else ()
    if kind in _FIELD:
        problems = (Problem(_FIELD[kind], str(error)),)
    headers = {}
    if isinstance(error, TooMany | Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, TooLarge | Unauthorized | TooSlow):
        headers["Connection"] = "close"  # else the server goes on reading what it refused
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(request, status, title, str(error), problems, headers, error)


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = tuple(problems_of(error.errors()))
    return _problem(request, 422, "Invalid request", "the request is not valid", problems)


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    cause = error.__cause__  # of what was raised while FastAPI read the body
    if isinstance(cause, RMAdapterError):
        return _on_domain_error(request, cause)
    if isinstance(cause, ClientDisconnect):
        return _on_hang_up(request, cause)
    if isinstance(cause, OSError):
        return _on_system_error(request, cause)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    return _problem(request, error.status_code, detail, detail, headers=headers)


def _on_hang_up(request: Request, _: Exception) -> JSONResponse:
    """Nobody reads the answer; the log and the metrics do."""
    return _on_domain_error(request, ClientGone("the client has gone"))


def _on_system_error(request: Request, error: Exception) -> JSONResponse:
    """A full disk passes: 503. Other errors of the system are bugs."""
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return _on_bug(request, error)
    log.error("%s %r: %s", request.method, request.url.path, error)
    return _on_domain_error(request, Unavailable("the disk is full", retry_after=30))


def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %r broke", request.method, request.url.path, exc_info=error)
    headers = {"Connection": "close"}  # the server closes it: a client must not use it again
    detail = "something broke here; the server's log has the reason"
    return _problem(request, 500, "Internal error", detail, headers=headers)


def _problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    problems: tuple[Problem, ...] = (),
    headers: dict[str, str] | None = None,
    error: Exception | None = None,
) -> JSONResponse:
    """As problem+json; as `code` and `message` where a client of Custom Vision's asks."""
    if custom_vision.covers(route_path(request.scope)):
        return custom_vision.refusal(error, status, detail, problems, headers or {})
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "errors": [{"field": p.field, "reason": p.reason} for p in problems[:MAX_PROBLEMS]],
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")
