"""/v1/tenants, for the administrator."""

from fastapi import APIRouter

from service.http.auth import Admin, ComponentsDep
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import TenantPath
from service.http.schemas import KeyOut, Named, RotateIn, TenantOut

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], dependencies=[Admin])


@router.post("", status_code=201)
def create_tenant(components: ComponentsDep, body: Named) -> KeyOut:
    """Makes a tenant and its first key, which has full access to that tenant.

    The key is shown this once. Needs the admin key.
    """
    tenant, api_key = components.records.tenants.create(body.name)
    return KeyOut(tenant=tenant.id, api_key=api_key)


@router.get("")
def list_tenants(
    components: ComponentsDep, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[TenantOut]:
    """Lists tenants by id, with what each uses of its quotas. Needs the admin key."""
    page = components.records.tenants.page(limit, cursor)
    quotas = components.records.quotas.of([tenant.id for tenant in page.items])
    listed = map(TenantOut.with_quotas, page.items, quotas)
    return PageOut(items=list(listed), cursor=page.cursor)


@router.post("/{tenant}/keys", status_code=201)
def rotate_keys(
    components: ComponentsDep, tenant: TenantPath, body: RotateIn | None = None
) -> KeyOut:
    """Makes a new API key and ends all others of its scope at once.

    Keys of the other scope stay. Without a body the scope is `manage`.
    """
    scope = body.scope if body else "manage"
    return KeyOut(tenant=tenant, api_key=components.records.tenants.rotate(tenant, scope)[1])


@router.delete("/{tenant}", status_code=204)
def erase_tenant(components: ComponentsDep, tenant: TenantPath) -> None:
    """Erases a tenant with all its photos, adapters and keys. It may be repeated: 204 again."""
    components.records.tenants.erase(tenant)
