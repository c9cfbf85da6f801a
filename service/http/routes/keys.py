"""/v1/keys: a tenant's own API keys."""

from fastapi import APIRouter

from service.http.auth import ComponentsDep, Manager
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import KeyPath
from service.http.schemas import KeyIn, KeyInfoOut, NewKeyOut

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
def create_key(components: ComponentsDep, tenant: Manager, body: KeyIn) -> NewKeyOut:
    """Makes one more key for the tenant. The key is shown this once."""
    key, api_key = components.records.tenants.add_key(tenant, body.scope)
    return NewKeyOut(**KeyInfoOut.of(key).model_dump(), api_key=api_key)


@router.get("")
def list_keys(
    components: ComponentsDep, tenant: Manager, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[KeyInfoOut]:
    """Lists the tenant's API keys and when each was last used, without the keys themselves."""
    keys = sorted(components.records.tenants.get(tenant).keys, key=lambda key: key.id)
    rest = [key for key in keys if cursor is None or key.id > cursor]
    used = components.records.tenants.last_used(rest[:limit])
    items = list(map(KeyInfoOut.of, rest[:limit], used))
    return PageOut(items=items, cursor=rest[limit - 1].id if rest[limit:] else None)


@router.delete("/{key_id}", status_code=204)
def revoke_key(components: ComponentsDep, tenant: Manager, key_id: KeyPath) -> None:
    """Ends a key at once. The last one that may manage the tenant cannot go: 409."""
    components.records.tenants.revoke_key(tenant, key_id)
