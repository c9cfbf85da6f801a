"""/v1/tenants, for the administrator."""

from fastapi import APIRouter

from service.auth import Admin, Reach
from service.routes.paging import Cursor, Limit, PageOut
from service.schemas import KeyOut, Named, TenantOut

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], dependencies=[Admin])


@router.post("", status_code=201)
def create_tenant(reach: Reach, body: Named) -> KeyOut:
    """Makes a tenant. Its key is shown this once."""
    tenant, api_key = reach.registry.tenants.create(body.name)
    return KeyOut(tenant=tenant.id, api_key=api_key)


@router.get("")
def list_tenants(reach: Reach, limit: Limit = 100, cursor: Cursor = None) -> PageOut[TenantOut]:
    page = reach.registry.tenants.page(limit, cursor)
    return PageOut(items=[TenantOut.of(t) for t in page.items], cursor=page.cursor)


@router.post("/{tenant}/keys", status_code=201)
def rotate_key(reach: Reach, tenant: str) -> KeyOut:
    """A new key; the old one ends at once."""
    return KeyOut(tenant=tenant, api_key=reach.registry.tenants.rotate(tenant))


@router.delete("/{tenant}", status_code=204)
def erase_tenant(reach: Reach, tenant: str) -> None:
    """Erases a tenant with all its data."""
    reach.registry.tenants.erase(tenant)
