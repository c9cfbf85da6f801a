"""Tenants and their API keys. A key is shown once and kept as its SHA-256.

tenants/T/tenant.json            its name and the hashes of its keys
tenants/T/tenant.REVISION.json   the same after a change of its keys; the latest one counts
"""

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from service.errors import Conflict, Invalid, NotFound, OverQuota, Unauthorized, Unavailable
from service.records.blobs import Blobs
from service.records.deletion import Deletion, refuse_late
from service.records.formats import FORMAT, mark_blobs
from service.records.store import (
    FORMAT_KEY,
    TENANT_RECORDS,
    UNNAMED,
    Page,
    RecordStore,
    iso_time,
    members,
    new_id,
    now,
    redis_key,
    tenant_redis_key,
)

Scope = Literal["classify", "manage"]  # the second includes the first

_TENANTS = redis_key("tenants")
# id → the time in seconds at which late writes are swept; +inf once they were
_ERASED = redis_key("erased-tenants")
_FILES = redis_key("tenant-files")  # id → the path of its file
_MANIFEST = re.compile(r"tenant(?:\.([0-9]{16}))?\.json")
_TRIES = 100  # attempts to change or erase a tenant while others change its keys
_USED_EVERY = 60  # seconds between two notes of a key's use
_USED_KEPT = 90 * 24 * 3600  # seconds that such a note is kept
SWEEP_AFTER = 120.0  # seconds; a request that was let in before the erasure has ended by then

# Each script is one step for Redis. It writes nothing for a tenant that was erased or that has no
# record, so an erased tenant cannot come back.
_SAVE = """
local names, tenants, erased, formats, unnamed, files = unpack(KEYS, 1, 6)
local id, record, format, expected, path, scopes, earlier = unpack(ARGV, 1, 7)
local present = redis.call('hget', names, id) or ''
local file = redis.call('hget', files, id)
local function dropped(outcome)
  redis.call('zadd', unnamed, 0, path)
  return {outcome, path}
end
local before = expected ~= '' and expected ~= 'any' and (file or earlier) or ''
if present == record and file == path then return {'saved', ''} end
if redis.call('zscore', erased, id) then return dropped('gone') end
if expected ~= 'any' then
  if present ~= expected then return dropped(present == '' and 'gone' or 'changed') end
  if redis.call('zrem', unnamed, path) == 0 then return dropped('late') end
  if before ~= '' then redis.call('zadd', unnamed, 0, before) end
end
redis.call('setnx', formats, format)
redis.call('hset', names, id, record)
redis.call('hset', files, id, path)
redis.call('zadd', tenants, 0, id)
for i = 7, #KEYS do
  if i - 6 <= tonumber(scopes) then redis.call('set', KEYS[i], id .. ' ' .. ARGV[i + 1])
  else redis.call('del', KEYS[i], KEYS[i] .. ':used') end
end
return {'saved', before}
"""

_ERASE = """#!lua flags=allow-oom
local names, tenants, erased, unnamed, files = unpack(KEYS, 1, 5)
local id, expected, after, everything = unpack(ARGV)
local record = redis.call('hget', names, id) or ''
if record ~= expected then return 'changed' end
if record == '' and not redis.call('zscore', erased, id) then return 'unknown' end
redis.call('hdel', names, id)
redis.call('hdel', files, id)
redis.call('zrem', tenants, id)
for i = 6, #KEYS do redis.call('del', KEYS[i], KEYS[i] .. ':used') end
redis.call('zadd', erased, redis.call('time')[1] + after, id)
redis.call('zadd', unnamed, 0, everything)
return 'erased'
"""

# The tenant and scope of a key, if the tenant's record names the key.
_GRANT = """
local found = redis.call('get', KEYS[1])
if not found then return false end
local record = redis.call('hget', KEYS[2], string.match(found, '^%S+'))
if not record or not string.find(record, ARGV[1], 1, true) then return false end
local clock = tonumber(redis.call('time')[1])
if tonumber(redis.call('get', KEYS[3]) or 0) + ARGV[2] <= clock then
  redis.pcall('set', KEYS[3], clock, 'EX', ARGV[3]) -- a Redis that cannot write still lets it in
end
return found
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret: `id` names it, `hash` is the SHA-256 of the key itself."""

    id: str
    hash: str
    scope: Scope
    created_at: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with its valid keys, oldest first."""

    id: str
    name: str
    created_at: str
    keys: tuple[ApiKey, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key allows, and for which tenant."""

    tenant: str
    scope: Scope


def hash_key(api_key: str) -> str:
    """The SHA-256 of a key. Keys have 192 random bits, so no guess finds a key of a hash."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class Tenants:
    """Makes, finds and erases tenants, and keeps their keys."""

    def __init__(
        self,
        store: RecordStore,
        blobs: Blobs,
        deletion: Deletion,
        max_keys: int,
        lookups: RecordStore,
    ) -> None:
        self._store, self._blobs, self._deletion = store, blobs, deletion
        self._max_keys, self._lookups = max_keys, lookups

    def create(self, name: str) -> tuple[Tenant, str]:
        """Makes a tenant and its first key, of scope `manage`."""
        made, api_key = _new_api_key("manage")
        tenant = Tenant(new_id("tenant"), name, now(), (made,))
        mark_blobs(self._blobs)
        path = _manifest(tenant.id)
        self._deletion.note(path)
        self._save(tenant, path)
        return tenant, api_key

    def _save(
        self, tenant: Tenant, path: str, before: str = "", ended: tuple[ApiKey, ...] = ()
    ) -> bool:
        """Writes a tenant's file and record; the `ended` keys open nothing from then on.

        Args:
            tenant: the record as it shall be.
            path: the file, which was noted as unnamed.
            before: the record as it must be, "" for a new tenant.
            ended: keys that were the tenant's until now.

        Returns:
            False if the record was changed meanwhile.

        Raises:
            NotFound: the tenant was erased meanwhile.
        """
        self._blobs.put(path, json.dumps(asdict(tenant)).encode())
        outcome, dropped = self._write(tenant, path, before, ended)
        self._deletion.discard([dropped] if dropped else [])
        if outcome == "gone":
            raise NotFound(f"there is no tenant {tenant.id}")
        refuse_late(outcome == "late")
        return outcome == "saved"

    def _write(
        self, tenant: Tenant, path: str, before: str, ended: tuple[ApiKey, ...] = ()
    ) -> tuple[str, str]:
        """The outcome, and the file that no record names any longer."""
        record = json.dumps(asdict(tenant))
        names = [_key_name(one.hash) for one in (*tenant.keys, *ended)]
        scopes = [one.scope for one in tenant.keys]
        keys = [TENANT_RECORDS, _TENANTS, _ERASED, FORMAT_KEY, UNNAMED, _FILES, *names]
        earlier = _manifest(tenant.id)
        values = [tenant.id, record, FORMAT, before, path, len(scopes), earlier, *scopes]
        outcome, dropped = self._store.eval(_SAVE, len(keys), *keys, *values)
        return str(outcome), str(dropped)

    def restore(self, tenant_id: str, path: str) -> None:
        """Rebuilds a tenant's record from its file.

        Args:
            tenant_id: the tenant.
            path: its latest file.

        Raises:
            NotFound: the tenant was erased.
            Invalid: the file names another tenant.
        """
        tenant = read_manifest(self._blobs.get(path))
        if tenant.id != tenant_id:
            raise Invalid(f"it says that it is {tenant.id!r}")
        if self._write(tenant, path, "any")[0] == "gone":
            raise NotFound(f"there is no tenant {tenant_id}")

    def get(self, tenant_id: str) -> Tenant:
        """A tenant.

        Raises:
            NotFound: there is none of this id.
        """
        record = self._store.hget(TENANT_RECORDS, tenant_id)
        if record is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        return read_manifest(record)

    def file(self, tenant_id: str) -> str:
        """The path of the tenant's file."""
        found: str | None = self._store.hget(_FILES, tenant_id)
        return found or _manifest(tenant_id)

    def page(self, limit: int, cursor: str | None) -> Page[Tenant]:
        """Part of the tenants, by id."""
        page = members(self._store, _TENANTS, limit, cursor)
        records = self._store.hmget(TENANT_RECORDS, page.items) if page.items else []
        return Page([read_manifest(r) for r in records if r], page.cursor)

    def authenticate(self, api_key: str) -> Grant:
        """The tenant and scope of a key.

        Keys are looked up by their SHA-256, not compared byte by byte. The time of a lookup depends
        on the hash alone. Without a key nobody can make a hash that is near its hash, so the time
        tells nothing about any key.

        Raises:
            Unauthorized: no tenant has this key.
        """
        hashed = hash_key(api_key)
        keys = (_key_name(hashed), TENANT_RECORDS, _used_name(hashed))
        what = (hashed, _USED_EVERY, _USED_KEPT)
        found: str | None = self._lookups.eval(_GRANT, len(keys), *keys, *what)
        if found is None:
            raise Unauthorized("the API key is not known")
        tenant, _, scope = found.partition(" ")
        return Grant(tenant, "classify" if scope == "classify" else "manage")

    def last_used(self, keys: Sequence[ApiKey]) -> list[str | None]:
        """When each key was last used: ISO 8601, UTC, within a minute; None if not in 90 days."""
        found = self._store.mget([_used_name(key.hash) for key in keys]) if keys else []
        return [iso_time(int(seconds)) if seconds else None for seconds in found]

    def add_key(self, tenant_id: str, scope: Scope) -> tuple[ApiKey, str]:
        """Makes another key.

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
        """Ends a key at once.

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
        """Makes a key of a scope and ends all others of that scope at once."""
        made, api_key = _new_api_key(scope)

        def rotated(tenant: Tenant) -> tuple[ApiKey, ...]:
            return (*(one for one in tenant.keys if one.scope != scope), made)

        self._change_keys(tenant_id, rotated)
        return made, api_key

    def _change_keys(self, tenant_id: str, change: Callable[[Tenant], tuple[ApiKey, ...]]) -> None:
        """Changes the keys; repeats it if others changed them meanwhile, so no change is lost."""
        for _ in range(_TRIES):
            record = self._store.hget(TENANT_RECORDS, tenant_id)
            if record is None:
                raise NotFound(f"there is no tenant {tenant_id}")
            tenant = read_manifest(record)
            kept = change(tenant)
            ended = tuple(one for one in tenant.keys if one not in kept)
            wanted = f"tenants/{tenant_id}/tenant.REVISION.json"
            (path,) = self._deletion.intend(tenant_id, wanted)
            if self._save(replace(tenant, keys=kept), path, record, ended):
                return
        raise Conflict("others change this tenant's keys at the same time")

    def erase(self, tenant_id: str) -> None:
        """Deletes a tenant with all its data. It may be repeated.

        One step drops the record and the keys and notes the files for deletion. So no key opens the
        tenant any longer, whatever fails afterwards. `sweep` deletes what earlier requests still
        write.

        Raises:
            NotFound: there is no such tenant, and there was none.
            Conflict: its keys change all the time; nothing was erased.
        """
        for _ in range(_TRIES):
            record = self._store.hget(TENANT_RECORDS, tenant_id) or ""
            opened = [_key_name(one.hash) for one in read_manifest(record).keys] if record else []
            keys = (TENANT_RECORDS, _TENANTS, _ERASED, UNNAMED, _FILES, *opened)
            what = (tenant_id, record, SWEEP_AFTER, _everything(tenant_id))
            outcome = self._store.eval(_ERASE, len(keys), *keys, *what)
            if outcome == "unknown":
                raise NotFound(f"there is no tenant {tenant_id}")
            if outcome == "erased":
                break
        else:
            raise Conflict("others change this tenant's keys at the same time")
        with suppress(Unavailable):  # then the sweep does it
            self._delete_records(tenant_id)
        self._deletion.discard([_everything(tenant_id)])

    def sweep(self) -> None:
        """Deletes again all data of tenants that were erased a while ago."""
        clock = self._store.time()[0]  # Redis's: it set what this is compared with
        for tenant_id in self._store.zrangebyscore(_ERASED, "-inf", clock):
            self._delete_records(tenant_id)
            with self._store.pipeline() as pipe:
                pipe.zadd(UNNAMED, {_everything(tenant_id): 0})
                pipe.zadd(_ERASED, {tenant_id: "+inf"})  # kept: it is never made again
                pipe.execute()

    def _delete_records(self, tenant_id: str) -> None:
        for name in self._store.scan_iter(match=f"{tenant_redis_key(tenant_id)}:*", count=1000):
            self._store.delete(name)


def read_manifest(data: bytes | str) -> Tenant:
    """A tenant from its record or file. Earlier releases wrote one `key_hash` for everything."""
    plain: dict[str, Any] = json.loads(data)
    if old := plain.pop("key_hash", None):
        plain["keys"] = [asdict(ApiKey(f"key_{old[:21]}", old, "manage", plain["created_at"]))]
    return Tenant(**(plain | {"keys": tuple(ApiKey(**one) for one in plain["keys"])}))


def is_manifest(name: str) -> bool:
    """Whether a file of this name is a tenant's."""
    return _MANIFEST.fullmatch(name) is not None


def revision_of(path: str) -> str:
    """The revision of a tenant's file, "" for the first one. The latest one counts."""
    found = _MANIFEST.fullmatch(path.rsplit("/", 1)[-1])
    return (found[1] or "") if found else ""


def _manifest(tenant_id: str) -> str:
    return f"tenants/{tenant_id}/tenant.json"


def _everything(tenant_id: str) -> str:
    """The folder of all its files."""
    return f"tenants/{tenant_id}/"


def _key_name(key_hash: str) -> str:
    return redis_key("api-key", key_hash)


def _used_name(key_hash: str) -> str:
    return f"{_key_name(key_hash)}:used"


def _new_api_key(scope: Scope) -> tuple[ApiKey, str]:
    api_key = f"rma_{secrets.token_urlsafe(24)}"
    return ApiKey(new_id("key"), hash_key(api_key), scope, now()), api_key
