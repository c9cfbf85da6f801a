"""Azure Custom Vision's prediction API: its paths, its key's header, and the form of its refusals.

https://learn.microsoft.com/rest/api/customvision/prediction, versions 3.0 and 3.1. An app moves
here by a changed endpoint and key, so what its client relies on is kept: the case of a path does
not matter, and an error is `code` and `message`, with a code of Microsoft's list.
"""

import re
from collections.abc import Iterable

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.errors import BadImage
from service.errors import (
    BadUrl,
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
)

BASE = "/customvision/v3.1/prediction/{project}/classify/iterations/{published_name}"
_PATH = re.compile(
    r"/customvision/v3\.[01]/prediction/([^/]+)/classify/iterations/([^/]+)"
    r"/(image|url)(/nostore)?/?",
    re.IGNORECASE,
)
_UNUSED = re.compile(r"[^A-Za-z0-9._-]")  # in the name of an adapter
_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (  # the first that fits
    (Unauthorized, 401, "Unauthorized"),
    (Forbidden, 403, "Forbidden"),
    (NotFound, 404, "NotFoundIteration"),
    (Conflict, 404, "NotFoundIteration"),  # an adapter without a live version
    (TooLarge, 400, "BadRequestImageSizeBytes"),
    (BadImage, 400, "BadRequestImageFormat"),
    (BadUrl, 400, "BadRequestImageUrl"),
    (Invalid, 400, "BadRequest"),
    (TooSlow, 408, "RequestTimeout"),
    (TooMany, 429, "TooManyRequests"),
    (Unavailable, 503, "ErrorPredictionServiceUnavailable"),
)
_CODES = {404: "NotFound", 422: "BadRequest"}  # of what no class of the above says


def covers(path: str) -> bool:
    """Whether a path, without a proxy's prefix, belongs to this API."""
    return path.lower().startswith("/customvision/")


def takes_picture(path: str) -> bool:
    """Whether a path is one of the four that classify a picture."""
    return _PATH.fullmatch(path) is not None


class CustomVision:
    """Gives requests to this API the one form that the router and the authentication know.

    The fixed parts of the path are in small letters, the version is 3.1, and `Prediction-Key` is
    the bearer's token. What an adapter's name cannot hold, such as a space, is a hyphen in it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on: see ASGI."""
        if scope["type"] == "http":
            prefix = scope.get("root_path", "")
            found = _PATH.fullmatch(scope["path"].removeprefix(prefix))
            if found is not None:
                headers = _with_bearer(scope["headers"])
                scope = {**scope, "path": prefix + _canonical(found), "headers": headers}
        await self._app(scope, receive, send)


def _canonical(found: "re.Match[str]") -> str:
    project, name, what, nostore = found.groups()
    path = BASE.format(project=project, published_name=_UNUSED.sub("-", name))
    return path + f"/{what}{nostore or ''}".lower()


def _with_bearer(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = Headers(raw=given)
    if "authorization" not in names and (key := names.get("prediction-key")):
        given.append((b"authorization", f"Bearer {key}".encode("latin-1")))
    return given


def refusal(
    error: Exception | None,
    status: int,
    detail: str,
    problems: tuple[Problem, ...],
    headers: dict[str, str],
) -> JSONResponse:
    """A refusal as Custom Vision's clients read it.

    Args:
        error: why, where a class of ours says it.
        status: what the rest of the API answers.
        detail: for people.
        problems: what is wrong, field by field; they become part of the message.
        headers: of the answer.

    Returns:
        `code` and `message`, with the status that Custom Vision has for it.
    """
    code = _CODES.get(status, "ErrorUnknown" if status >= 500 else "BadRequestNotSupported")
    for kind, its_status, its_code in _REFUSALS:
        if isinstance(error, kind):
            status, code = its_status, its_code
            break
    reasons = "; ".join(f"{problem.field}: {problem.reason}" for problem in problems)
    message = f"{detail} ({reasons})" if reasons else detail
    return JSONResponse(
        {"code": code, "message": message}, 400 if status == 422 else status, headers
    )
