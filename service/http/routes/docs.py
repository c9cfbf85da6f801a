"""The API reference at `/docs`: a page without script, kept apart from the console's session."""

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from service.http.reference import page

# A sandbox without allow-same-origin gives the page an origin of its own: even a script that got
# into it could not read the key that the console keeps in this origin's sessionStorage.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; sandbox"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.head("/docs")
@router.get("/docs")
def reference(request: Request) -> HTMLResponse:
    """Every call of the API with an example of what goes in and what comes out."""
    return HTMLResponse(page(request.app.openapi()), headers=_HEADERS)


@router.get("/redoc")
def redoc() -> RedirectResponse:
    """One reference is enough: old bookmarks lead to it."""
    return RedirectResponse("docs", status_code=308)


def mount(app: FastAPI) -> None:
    """Beside the console."""
    app.include_router(router)
