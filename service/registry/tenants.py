"""Tenants and their API keys. A key is shown once and kept as its SHA-256."""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass

from service.blobs import Blobs
from service.errors import NotFound, Unauthorized
from service.registry.store import Page, Store, key, members, new_id, now, tenant_key

_TENANTS = key("tenants")
_NAMES = key("tenant-names")


@dataclass(frozen=True, slots=True)
class Tenant:
    """`key_hash` is the hash of the one key that is valid."""

    id: str
    name: str
    created_at: str
    key_hash: str


def hash_key(api_key: str) -> str:
    """A key holds 192 random bits, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class Tenants:
    """Makes, finds and erases tenants."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store, self._blobs = store, blobs

    def create(self, name: str) -> tuple[Tenant, str]:
        """A new tenant and its key."""
        api_key = _new_key()
        tenant = Tenant(new_id("tenant"), name, now(), hash_key(api_key))
        self.save(tenant)
        return tenant, api_key

    def save(self, tenant: Tenant) -> None:
        record = json.dumps(asdict(tenant))
        self._blobs.put(_manifest(tenant.id), record.encode())
        with self._store.pipeline() as pipe:
            pipe.hset(_NAMES, tenant.id, record)
            pipe.set(_key_name(tenant.key_hash), tenant.id)
            pipe.zadd(_TENANTS, {tenant.id: 0})
            pipe.execute()

    def get(self, tenant_id: str) -> Tenant:
        record = self._store.hget(_NAMES, tenant_id)
        if record is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        return Tenant(**json.loads(record))

    def page(self, limit: int, cursor: str | None) -> Page[Tenant]:
        page = members(self._store, _TENANTS, limit, cursor)
        records = self._store.hmget(_NAMES, page.items) if page.items else []
        return Page([Tenant(**json.loads(r)) for r in records if r], page.cursor)

    def authenticate(self, api_key: str) -> str:
        """The tenant that a key belongs to. The look-up is by hash: it leaks nothing by its time.

        Raises:
            Unauthorized: no tenant has this key.
        """
        tenant_id: str | None = self._store.get(_key_name(hash_key(api_key)))
        if tenant_id is None:
            raise Unauthorized("the API key is not known")
        return tenant_id

    def rotate(self, tenant_id: str) -> str:
        """A new key; the old one ends at once."""
        old, api_key = self.get(tenant_id), _new_key()
        self.save(Tenant(old.id, old.name, old.created_at, hash_key(api_key)))
        self._store.delete(_key_name(old.key_hash))
        return api_key

    def erase(self, tenant_id: str) -> None:
        """Deletes a tenant with all its data. The key goes first, so nothing is added meanwhile."""
        tenant = self.get(tenant_id)
        self._store.delete(_key_name(tenant.key_hash))
        for name in self._store.scan_iter(match=tenant_key(tenant_id, "*"), count=1000):
            self._store.delete(name)
        self._blobs.delete_all(f"tenants/{tenant_id}")
        with self._store.pipeline() as pipe:
            pipe.hdel(_NAMES, tenant_id)
            pipe.zrem(_TENANTS, tenant_id)
            pipe.execute()


def read_manifest(data: bytes) -> Tenant:
    """The tenant that a blob of `save` describes."""
    return Tenant(**json.loads(data))


def _manifest(tenant_id: str) -> str:
    return f"tenants/{tenant_id}/tenant.json"


def _key_name(key_hash: str) -> str:
    return key("api-key", key_hash)


def _new_key() -> str:
    return f"rma_{secrets.token_urlsafe(24)}"
