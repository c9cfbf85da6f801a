"""Tenants and their API keys. A key is shown once and kept as its SHA-256.

tenants/T/tenant.json   its name and the hashes of its keys
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from service.errors import Conflict, NotFound, OverQuota, Unauthorized, Unavailable
from service.records.blobs import Blobs
from service.records.formats import FORMAT, mark_blobs
from service.records.store import (
    FORMAT_KEY,
    Page,
    RecordStore,
    members,
    new_id,
    now,
    redis_key,
    tenant_redis_key,
)

Scope = Literal["classify", "manage"]  # the second holds all that the first does

_TENANTS = redis_key("tenants")
_NAMES = redis_key("tenant-names")
_ERASED = redis_key(
    "erased-tenants"
)  # id → when what was written meanwhile is swept, seconds of time()
_LOCK_SECONDS = 30.0  # a change of keys writes two small records
SWEEP_AFTER = 120.0  # seconds; a request that was let in before the erasure has ended by then

# A tenant that is gone stays gone: a change of one without a record, or of an erased one, writes
# nothing.
_SAVE = """
local names, tenants, erased, formats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, record, format, known, scopes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if redis.call('zscore', erased, id) then return 0 end
if known == '1' and redis.call('hexists', names, id) == 0 then return 0 end
redis.call('setnx', formats, format)
redis.call('hset', names, id, record)
redis.call('zadd', tenants, 0, id)
for i = 5, #KEYS do
  if i - 4 <= scopes then redis.call('set', KEYS[i], id .. ' ' .. ARGV[i + 1])
  else redis.call('del', KEYS[i]) end
end
return 1
"""

# What a key opens; nothing unless its tenant is there and has the key in its record.
_GRANT = """
local found = redis.call('get', KEYS[1])
if not found then return false end
local record = redis.call('hget', KEYS[2], string.match(found, '^%S+'))
if record and string.find(record, ARGV[1], 1, true) then return found end
return false
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
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
    keys: tuple[ApiKey, ...]


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

    def __init__(self, store: RecordStore, blobs: Blobs, max_keys: int) -> None:
        self._store, self._blobs, self._max_keys = store, blobs, max_keys

    def create(self, name: str) -> tuple[Tenant, str]:
        """A new tenant and its first key, which may do everything of the tenant."""
        made, api_key = _new_api_key("manage")
        tenant = Tenant(new_id("tenant"), name, now(), (made,))
        mark_blobs(self._blobs)
        self.save(tenant)
        return tenant, api_key

    def save(self, tenant: Tenant, ended: tuple[ApiKey, ...] = (), known: bool = False) -> None:
        """Writes the record; the `ended` keys open nothing from then on.

        Args:
            tenant: the record as it shall be.
            ended: keys that were the tenant's until now.
            known: the tenant must have a record already.

        Raises:
            NotFound: the tenant was erased meanwhile. Nothing of it is left by this call.
        """
        record = json.dumps(asdict(tenant))
        self._blobs.put(_manifest(tenant.id), record.encode())
        names = [_key_name(one.hash) for one in (*tenant.keys, *ended)]
        scopes = [one.scope for one in tenant.keys]
        keys = [_NAMES, _TENANTS, _ERASED, FORMAT_KEY, *names]
        values = [tenant.id, record, FORMAT, "1" if known else "0", len(scopes), *scopes]
        if not self._store.eval(_SAVE, len(keys), *keys, *values):
            self._blobs.delete(_manifest(tenant.id))
            raise NotFound(f"there is no tenant {tenant.id}")

    def get(self, tenant_id: str) -> Tenant:
        """A tenant.

        Raises:
            NotFound: there is none of this id.
        """
        record = self._store.hget(_NAMES, tenant_id)
        if record is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        return read_manifest(record)

    def page(self, limit: int, cursor: str | None) -> Page[Tenant]:
        """Part of the tenants, by id."""
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
        hashed = hash_key(api_key)
        found: str | None = self._store.eval(_GRANT, 2, _key_name(hashed), _NAMES, hashed)
        if found is None:
            raise Unauthorized("the API key is not known")
        tenant, _, scope = found.partition(" ")
        return Grant(tenant, "classify" if scope == "classify" else "manage")

    def add_key(self, tenant_id: str, scope: Scope) -> tuple[ApiKey, str]:
        """One more key.

        Raises:
            OverQuota: the tenant has as many as allowed.
        """
        made, api_key = _new_api_key(scope)

        def grown(tenant: Tenant) -> tuple[ApiKey, ...]:
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

        def shrunk(tenant: Tenant) -> tuple[ApiKey, ...]:
            kept = tuple(one for one in tenant.keys if one.id != key_id)
            if len(kept) == len(tenant.keys):
                raise NotFound(f"there is no key {key_id}")
            if not any(one.scope == "manage" for one in kept):
                raise Conflict("it is the last key that may manage this tenant")
            return kept

        self._change_keys(tenant_id, shrunk)

    def rotate(self, tenant_id: str, scope: Scope = "manage") -> tuple[ApiKey, str]:
        """A new key of a scope; all others of that scope end at once, those of the other stay."""
        made, api_key = _new_api_key(scope)

        def rotated(tenant: Tenant) -> tuple[ApiKey, ...]:
            return (*(one for one in tenant.keys if one.scope != scope), made)

        self._change_keys(tenant_id, rotated)
        return made, api_key

    def _change_keys(self, tenant_id: str, change: Callable[[Tenant], tuple[ApiKey, ...]]) -> None:
        """Under a lock, so that of two changes at once neither is lost."""
        with self._store.lock(redis_key("tenant-lock", tenant_id), timeout=_LOCK_SECONDS):
            tenant = self.get(tenant_id)
            kept = change(tenant)
            ended = tuple(one for one in tenant.keys if one not in kept)
            self.save(replace(tenant, keys=kept), ended, known=True)

    def erase(self, tenant_id: str) -> None:
        """Deletes a tenant with all its data; may be repeated.

        The record and the keys go first, in one step, so nothing opens the tenant any more. What
        requests that were let in before write meanwhile is deleted by `sweep`.

        Raises:
            NotFound: there is no such tenant, and there was none.
        """
        known = self._store.hexists(_NAMES, tenant_id)
        if not known and self._store.zscore(_ERASED, tenant_id) is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        with suppress(Unavailable):  # full memory refuses this, and not what deletes
            self._store.zadd(_ERASED, {tenant_id: time.time() + SWEEP_AFTER})
        self._end(tenant_id)

    def sweep(self) -> None:
        """Deletes once more what belongs to tenants that were erased a while ago."""
        for tenant_id in self._store.zrangebyscore(_ERASED, "-inf", time.time()):
            self._end(tenant_id)
            self._store.zadd(_ERASED, {tenant_id: "+inf"})  # kept: it is never made again

    def _end(self, tenant_id: str) -> None:
        with self._store.lock(redis_key("tenant-lock", tenant_id), timeout=_LOCK_SECONDS):
            record = self._store.hget(_NAMES, tenant_id)
            with self._store.pipeline() as pipe:
                pipe.hdel(_NAMES, tenant_id)
                pipe.zrem(_TENANTS, tenant_id)
                for one in read_manifest(record).keys if record else ():
                    pipe.delete(_key_name(one.hash))
                pipe.execute()
        self._delete_all(tenant_id)

    def _delete_all(self, tenant_id: str) -> None:
        self._blobs.delete(_manifest(tenant_id))  # first: without it, a restore leaves it erased
        for name in self._store.scan_iter(match=f"{tenant_redis_key(tenant_id)}:*", count=1000):
            self._store.delete(name)
        self._blobs.delete_all(f"tenants/{tenant_id}")


def read_manifest(data: bytes | str) -> Tenant:
    """The tenant that `save` wrote, or an earlier release: one `key_hash`, for everything."""
    plain: dict[str, Any] = json.loads(data)
    if old := plain.pop("key_hash", None):
        plain["keys"] = [asdict(ApiKey(f"key_{old[:21]}", old, "manage", plain["created_at"]))]
    return Tenant(**(plain | {"keys": tuple(ApiKey(**one) for one in plain["keys"])}))


def _manifest(tenant_id: str) -> str:
    return f"tenants/{tenant_id}/tenant.json"


def _key_name(key_hash: str) -> str:
    return redis_key("api-key", key_hash)


def _new_api_key(scope: Scope) -> tuple[ApiKey, str]:
    api_key = f"rma_{secrets.token_urlsafe(24)}"
    return ApiKey(new_id("key"), hash_key(api_key), scope, now()), api_key
