"""Tenants and their API keys. A key is shown once and kept as its SHA-256.

tenants/T/tenant.json   its name and the hashes of its keys
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from service.errors import Conflict, NotFound, OverQuota, Unauthorized
from service.records.blobs import Blobs
from service.records.formats import FORMAT, mark_blobs
from service.records.store import (
    FORMAT_KEY,
    Page,
    Store,
    key,
    members,
    new_id,
    now,
    tenant_key,
)

Scope = Literal["classify", "manage"]  # the second holds all that the first does

_TENANTS = key("tenants")
_NAMES = key("tenant-names")
_LOCK_SECONDS = 30.0  # a change of keys writes two small records


@dataclass(frozen=True, slots=True)
class Key:
    """`id` names a key without opening anything; `hash` is that of the key itself."""

    id: str
    hash: str
    scope: Scope
    created_at: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """`keys`: those that are valid, oldest first."""

    id: str
    name: str
    created_at: str
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key opens."""

    tenant: str
    scope: Scope


def hash_key(api_key: str) -> str:
    """A key holds 192 random bits, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class Tenants:
    """Makes, finds and erases tenants, and keeps their keys."""

    def __init__(self, store: Store, blobs: Blobs, max_keys: int) -> None:
        self._store, self._blobs, self._max_keys = store, blobs, max_keys

    def create(self, name: str) -> tuple[Tenant, str]:
        """A new tenant and its first key, which may do everything of the tenant."""
        made, api_key = _new_key("manage")
        tenant = Tenant(new_id("tenant"), name, now(), (made,))
        mark_blobs(self._blobs)
        self.save(tenant)
        return tenant, api_key

    def save(self, tenant: Tenant, ended: tuple[Key, ...] = ()) -> None:
        """Writes the record; the `ended` keys open nothing from then on."""
        record = json.dumps(asdict(tenant))
        self._blobs.put(_manifest(tenant.id), record.encode())
        with self._store.pipeline() as pipe:
            pipe.setnx(FORMAT_KEY, FORMAT)
            pipe.hset(_NAMES, tenant.id, record)
            for one in ended:
                pipe.delete(_key_name(one.hash))
            for one in tenant.keys:
                pipe.set(_key_name(one.hash), f"{tenant.id} {one.scope}")
            pipe.zadd(_TENANTS, {tenant.id: 0})
            pipe.execute()

    def get(self, tenant_id: str) -> Tenant:
        record = self._store.hget(_NAMES, tenant_id)
        if record is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        return read_manifest(record)

    def page(self, limit: int, cursor: str | None) -> Page[Tenant]:
        page = members(self._store, _TENANTS, limit, cursor)
        records = self._store.hmget(_NAMES, page.items) if page.items else []
        return Page([read_manifest(r) for r in records if r], page.cursor)

    def authenticate(self, api_key: str) -> Grant:
        """What a key opens.

        Keys are not compared byte by byte but looked up by their SHA-256. How long that takes can
        depend on the hash alone, and who does not know a key cannot steer its hash towards a
        stored one, so the time says nothing of any key.

        Raises:
            Unauthorized: no tenant has this key.
        """
        found: str | None = self._store.get(_key_name(hash_key(api_key)))
        if found is None:
            raise Unauthorized("the API key is not known")
        tenant, _, scope = found.partition(" ")
        return Grant(tenant, "classify" if scope == "classify" else "manage")

    def add_key(self, tenant_id: str, scope: Scope) -> tuple[Key, str]:
        """One more key.

        Raises:
            OverQuota: the tenant has as many as allowed.
        """
        made, api_key = _new_key(scope)

        def grown(tenant: Tenant) -> tuple[Key, ...]:
            if len(tenant.keys) >= self._max_keys:
                raise OverQuota("keys", self._max_keys, len(tenant.keys))
            return (*tenant.keys, made)

        self._change_keys(tenant_id, grown)
        return made, api_key

    def revoke_key(self, tenant_id: str, key_id: str) -> None:
        """The key opens nothing from now on.

        Raises:
            Conflict: it is the last one that may manage the tenant.
        """

        def shrunk(tenant: Tenant) -> tuple[Key, ...]:
            kept = tuple(one for one in tenant.keys if one.id != key_id)
            if len(kept) == len(tenant.keys):
                raise NotFound(f"there is no key {key_id}")
            if not any(one.scope == "manage" for one in kept):
                raise Conflict("it is the last key that may manage this tenant")
            return kept

        self._change_keys(tenant_id, shrunk)

    def rotate(self, tenant_id: str, scope: Scope = "manage") -> tuple[Key, str]:
        """A new key of a scope; all others of that scope end at once, those of the other stay."""
        made, api_key = _new_key(scope)

        def rotated(tenant: Tenant) -> tuple[Key, ...]:
            return (*(one for one in tenant.keys if one.scope != scope), made)

        self._change_keys(tenant_id, rotated)
        return made, api_key

    def _change_keys(self, tenant_id: str, change: Callable[[Tenant], tuple[Key, ...]]) -> None:
        """Under a lock, so that of two changes at once neither is lost."""
        with self._store.lock(key("tenant-lock", tenant_id), timeout=_LOCK_SECONDS):
            tenant = self.get(tenant_id)
            kept = change(tenant)
            ended = tuple(one for one in tenant.keys if one not in kept)
            self.save(replace(tenant, keys=kept), ended)

    def erase(self, tenant_id: str) -> None:
        """Deletes a tenant with all its data. The keys go first, so nothing is added meanwhile."""
        tenant = self.get(tenant_id)
        for one in tenant.keys:
            self._store.delete(_key_name(one.hash))
        for name in self._store.scan_iter(match=tenant_key(tenant_id, "*"), count=1000):
            self._store.delete(name)
        self._blobs.delete(_manifest(tenant_id))  # first: without it, a restore leaves it erased
        self._blobs.delete_all(f"tenants/{tenant_id}")
        with self._store.pipeline() as pipe:
            pipe.hdel(_NAMES, tenant_id)
            pipe.zrem(_TENANTS, tenant_id)
            pipe.execute()


def read_manifest(data: bytes | str) -> Tenant:
    """The tenant that `save` wrote, or an earlier release: one `key_hash`, for everything."""
    plain: dict[str, Any] = json.loads(data)
    if old := plain.pop("key_hash", None):
        plain["keys"] = [asdict(Key(f"key_{old[:21]}", old, "manage", plain["created_at"]))]
    return Tenant(**(plain | {"keys": tuple(Key(**one) for one in plain["keys"])}))


def _manifest(tenant_id: str) -> str:
    return f"tenants/{tenant_id}/tenant.json"


def _key_name(key_hash: str) -> str:
    return key("api-key", key_hash)


def _new_key(scope: Scope) -> tuple[Key, str]:
    api_key = f"rma_{secrets.token_urlsafe(24)}"
    return Key(new_id("key"), hash_key(api_key), scope, now()), api_key
