"""Who asks, and what their key opens: a tenant by one of its keys, or the administrator.

A key's scope is checked by what a handler asks for: `CurrentTenant` and `Reader` take any key of
the tenant, `Manager` takes one that may manage it. Each also counts the call for the tenant's rate.
"""

import hmac
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden, Unauthorized
from service.registry.tenants import Grant, Scope, hash_key
from service.services import Services

_bearer = HTTPBearer(auto_error=False, description="a tenant's API key, or the admin key")


def get_services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


Reach = Annotated[Services, Depends(get_services)]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def require_admin(reach: Reach, credentials: Credentials) -> None:
    """Raises Unauthorized for no key or an unknown one, Forbidden for a tenant's."""
    if _is_admin(reach, credentials):
        return
    tenant = _grant(reach, credentials).tenant
    raise Forbidden(f"the key is that of tenant {tenant}; this needs the admin key")


def require(scope: Scope, rate: Literal["classify", "manage"]) -> Callable[..., str]:
    """A dependency that gives the tenant's id.

    It raises Unauthorized, TooMany, or Forbidden for the admin key and for too small a scope.
    """

    def tenant_of(reach: Reach, credentials: Credentials) -> str:
        if _is_admin(reach, credentials):
            raise Forbidden("the admin key is for /v1/tenants; this needs a tenant's key")
        grant = _grant(reach, credentials)
        reach.registry.rates.take(grant.tenant, rate)
        if grant.scope not in (scope, "manage"):
            raise Forbidden(f"the key's scope is {grant.scope}; this needs the scope {scope}")
        return grant.tenant

    return tenant_of


def _grant(reach: Services, credentials: HTTPAuthorizationCredentials | None) -> Grant:
    if credentials is None:
        raise Unauthorized("send the header Authorization: Bearer KEY")
    api_key = credentials.credentials
    name = hash_key(api_key)  # memory holds no key either
    return reach.keys(name, lambda: reach.registry.tenants.authenticate(api_key))


def _is_admin(reach: Services, credentials: HTTPAuthorizationCredentials | None) -> bool:
    admin_key = reach.settings.admin_key
    if admin_key is None or credentials is None:
        return False
    given = credentials.credentials.encode()
    return hmac.compare_digest(given, admin_key.get_secret_value().encode())


CurrentTenant = Annotated[str, Depends(require("classify", rate="classify"))]
Reader = Annotated[str, Depends(require("classify", rate="manage"))]
Manager = Annotated[str, Depends(require("manage", rate="manage"))]
Admin = Depends(require_admin)
