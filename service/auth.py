"""Who asks: a tenant by its key, or the administrator."""

import hmac
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden, Unauthorized
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
    tenant = require_tenant(reach, credentials)
    raise Forbidden(f"the key is that of tenant {tenant}, this needs the admin key")


def require_tenant(reach: Reach, credentials: Credentials) -> str:
    """The tenant's id. Raises Unauthorized, or Forbidden for the admin key."""
    if credentials is None:
        raise Unauthorized("send the header Authorization: Bearer KEY")
    if _is_admin(reach, credentials):
        raise Forbidden("the admin key is for /v1/tenants; this needs a tenant's key")
    api_key = credentials.credentials
    return reach.keys(api_key, lambda: reach.registry.tenants.authenticate(api_key))


def _is_admin(reach: Services, credentials: HTTPAuthorizationCredentials | None) -> bool:
    admin_key = reach.settings.admin_key
    if admin_key is None or credentials is None:
        return False
    given = credentials.credentials.encode()
    return hmac.compare_digest(given, admin_key.get_secret_value().encode())


CurrentTenant = Annotated[str, Depends(require_tenant)]
Admin = Depends(require_admin)
