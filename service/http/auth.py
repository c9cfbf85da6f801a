"""Authentication and scopes: a tenant by one of its keys, or the administrator.

A handler's parameter decides which keys it takes: `CurrentTenant` and `Reader` take any key of the
tenant, `Manager` one of scope `manage`. Each also counts the call for the tenant's rate limit.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from service import logs
from service.errors import Forbidden, TooSlow, Unauthorized
from service.http.inflight import FREE, InFlight
from service.http.middleware import route_path, takes_pictures
from service.inference.admission import Admission
from service.records.tenants import Grant, Scope, hash_key
from service.wiring import Components

BODY_SECONDS = 30.0  # between two parts of a body
_GRANTED = "rmadapter.granted"  # in a request's scope
_bearer = HTTPBearer(auto_error=False, description="a tenant's API key, or the admin key")


def get_components(request: Request) -> Components:
    """FastAPI's dependency: the components that this application was made with."""
    components = request.app.state.components
    assert isinstance(components, Components)
    return components


ComponentsDep = Annotated[Components, Depends(get_components)]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def require_admin(request: Request, components: ComponentsDep, credentials: Credentials) -> None:
    """Raises Unauthorized for no key or an unknown one, Forbidden for a tenant's."""
    api_key = credentials.credentials if credentials else None
    if _is_admin(components, api_key):
        return
    raise _needs_admin(_grant(request.scope, components, api_key))


def _needs_admin(grant: Grant) -> Forbidden:
    return Forbidden(f"the key is that of tenant {grant.tenant}; this needs the admin key")


def require(scope: Scope, rate: Literal["classify", "manage"]) -> Callable[..., str]:
    """A dependency that gives the tenant's id.

    It raises Unauthorized, TooMany, or Forbidden for the admin key and for too small a scope.
    """

    def tenant_of(request: Request, components: ComponentsDep, credentials: Credentials) -> str:
        api_key = credentials.credentials if credentials else None
        if _is_admin(components, api_key):
            raise Forbidden("the admin key is for /v1/tenants; this needs a tenant's key")
        grant = _grant(request.scope, components, api_key)
        logs.note(tenant=grant.tenant)
        components.records.rates.take(grant.tenant, rate)
        if grant.scope not in (scope, "manage"):
            raise Forbidden(f"the key's scope is {grant.scope}; this needs the scope {scope}")
        return grant.tenant

    return tenant_of


class Gate:
    """Refuses a key that is unknown or may not call the route before the body is read.

    FastAPI reads and parses some bodies before it runs the dependencies that check the key.
    """

    def __init__(self, app: ASGIApp, components: Components) -> None:
        self._app, self._components = app, components
        self._inflight = InFlight(components.settings.max_bytes_in_flight)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it: see ASGI."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        scope[_GRANTED] = {}
        body = _Body(self._inflight, scope, receive, self._check)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.close()

    def _check(self, scope: ASGIScope) -> str:
        """Whose body may be read: the tenant's id, or "" for the administrator."""
        scheme, _, api_key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = api_key.strip() if scheme.lower() == "bearer" else None
        if _is_admin(self._components, given):
            return ""
        grant = _grant(scope, self._components, given)
        path = route_path(scope)
        if path == "/v1/tenants" or path.startswith("/v1/tenants/"):
            raise _needs_admin(grant)
        if grant.scope != "manage" and not takes_pictures(path):
            raise Forbidden(f"the key's scope is {grant.scope}; this needs the scope manage")
        return grant.tenant


class _Body:
    """A request's body: read when it is known whose it is, counted, and with a deadline."""

    def __init__(
        self,
        inflight: InFlight,
        scope: ASGIScope,
        receive: Receive,
        check: Callable[[ASGIScope], str],
    ) -> None:
        self._inflight, self._scope, self._receive, self._check = inflight, scope, receive, check
        self._tenant: str | None = None
        self._arrived = self._counted = 0
        self._whole = False

    async def receive(self) -> Message:
        """The next part of it.

        Raises:
            Unauthorized, Forbidden: its sender may not send it.
            TooMany, Unavailable: too many bytes are held already.
            TooSlow: nothing came for a while.
        """
        if self._tenant is None:
            granted: dict[str, Grant] = self._scope[_GRANTED]
            known = next(iter(granted.values()), None)  # a dependency looked it up already
            if known is not None:
                self._tenant = known.tenant
            else:
                self._tenant = await run_in_threadpool(self._check, self._scope)
        try:
            async with asyncio.timeout(None if self._whole else BODY_SECONDS):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow(f"nothing of the body came for {BODY_SECONDS:g} s") from error
        self._count(len(message.get("body", b"")))
        self._whole = not message.get("more_body")  # then it waits for the client to hang up
        return message

    def _count(self, size: int) -> None:
        self._arrived += size
        more = max(0, self._arrived - FREE) - self._counted
        if more > 0 and self._tenant:
            self._inflight.add(self._tenant, more)
            self._counted += more

    def close(self) -> None:
        """The request has ended."""
        if self._tenant and self._counted:
            self._inflight.give_back(self._tenant, self._counted)


def _grant(scope: ASGIScope, components: Components, api_key: str | None) -> Grant:
    """What a key opens, looked up once in a request."""
    if not api_key:
        raise Unauthorized("send the header Authorization: Bearer KEY")
    granted: dict[str, Grant] = scope.get(_GRANTED, {})
    name = hash_key(api_key)  # memory holds no key either
    if name not in granted:
        granted[name] = components.keys(
            name, lambda: components.records.tenants.authenticate(api_key)
        )
    return granted[name]


def still_granted(components: Components, credentials: HTTPAuthorizationCredentials | None) -> None:
    """Raises Unauthorized when the API key of a long answer was revoked since it began."""
    _grant({}, components, credentials.credentials if credentials else None)


def _is_admin(components: Components, api_key: str | None) -> bool:
    admin_key = components.settings.admin_key
    if admin_key is None or api_key is None:
        return False
    return hmac.compare_digest(api_key.encode(), admin_key.get_secret_value().encode())


async def refuse_early(components: ComponentsDep, credentials: Credentials) -> None:
    """Raises TooMany for a tenant whose pictures would wait too long, from memory alone.

    Under overload most requests end here, before a call to Redis and before the body is read.
    """
    known = components.keys.last(hash_key(credentials.credentials)) if credentials else None
    if known:
        components.engine.check_wait(known.tenant)


async def _admitted(components: ComponentsDep, tenant: "CurrentTenant") -> AsyncIterator[Admission]:
    with components.engine.admitted(tenant) as admission:
        yield admission


CurrentTenant = Annotated[str, Depends(require("classify", rate="classify"))]
Admitted = Annotated[Admission, Depends(_admitted)]
Reader = Annotated[str, Depends(require("classify", rate="manage"))]
Manager = Annotated[str, Depends(require("manage", rate="manage"))]
Admin = Depends(require_admin)
