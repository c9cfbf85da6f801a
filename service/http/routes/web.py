"""The console at `/`: the files of service/web, under a policy that lets nothing else run."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from training.folders import as_javascript

_FILES = Path(__file__).parents[2] / "web"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked again each time, answered by 304 while it is the same
}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
def index() -> FileResponse:
    """The console's only page."""
    return FileResponse(_FILES / "index.html", headers=_HEADERS)


@router.get("/console/folders.js")
def folders() -> Response:
    """The lists by which folders are read, so that the console leaves out what archives do."""
    return Response(as_javascript(), media_type="text/javascript", headers=_HEADERS)


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def mount(app: FastAPI) -> None:
    """After the routes of the API."""
    app.include_router(router)
    app.mount("/console", _Files(directory=_FILES), name="console")
