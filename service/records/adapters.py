"""Adapters: named classifiers of a tenant, their versions, and which version is live.

tenants/T/adapters/A/versions/N.safetensors   a version; its header describes it completely
tenants/T/adapters/A/live/REVISION.json       which version is live; the latest file counts

Earlier releases wrote the second into one file, tenants/T/adapters/A/live.json. It counts if the
folder `live` is empty.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from adapters.artifact import Manifest, decode_artifact, header_length, read_manifest, sha256
from adapters.errors import BadArtifact
from service.errors import Conflict, NotFound, Unavailable
from service.records.blobs import Blobs
from service.records.deletion import GRACE_SECONDS, Deletion, Pending
from service.records.store import Page, RecordStore, members, tenant_redis_key

LeftOut = Callable[[str, str], None]  # called with a blob's path and why it was left out
_LONG = ("classes", "confusion", "mistakes")  # parts of a report
_HEAD_BYTES = 64 * 2**10  # of an artifact, read first: most reports are in it
_TRIES = 20  # attempts to publish while others publish too

# Each script is one step for Redis. KEYS: 1, the tenant's list of adapters; 2, one adapter's record
# with `live`, `live_file` and `next`; 3, its versions. `former` is called for each adapter that has
# no version yet or no longer has one.
_NEXT = """
local last = redis.call('get', own .. ':last-number')
if last then redis.call('hsetnx', KEYS[2], 'next', last) end
local number = redis.call('hincrby', KEYS[2], 'next', 1)
if redis.call('hlen', KEYS[3]) == 0 then former(ARGV[1]) end
return number
"""
# Notes a version's file, unless a worker that died had recorded the version already.
_INTEND = f"""
local number, path = unpack(ARGV)
if redis.call('hexists', KEYS[3], number) == 1 then return 1 end
return intend(path, {GRACE_SECONDS}) and 1 or 0
"""
_RECORD = """
local number, record, adapter, path = unpack(ARGV)
if redis.call('hexists', KEYS[3], number) == 1 then return 1 end
if not named(path) then drop(path); return 0 end
redis.call('hset', KEYS[3], number, record)
account(KEYS[2], #record)
redis.call('zadd', KEYS[1], 0, adapter)
redis.call('zrem', own .. ':former-adapters', adapter)
return 1
"""
_GO_LIVE = """
local number, expected, path, earlier = unpack(ARGV)
local live, file = unpack(redis.call('hmget', KEYS[2], 'live', 'live_file'))
local function refused(outcome) drop(path); return {outcome, path} end
if file == path then return {'live', ''} end
if redis.call('hexists', KEYS[3], number) == 0 then return refused('gone') end
if (live or '') ~= expected then return refused('changed') end
if not named(path) then return refused('late') end
redis.call('hset', KEYS[2], 'live', number, 'live_file', path)
drop(file or earlier)
return {'live', file or earlier}
"""
_WITHOUT = """
local function forget(number, record, adapter)
  redis.call('hdel', KEYS[3], number)
  account(KEYS[2], -#record)
  if redis.call('hlen', KEYS[3]) == 0 then
    redis.call('zrem', KEYS[1], adapter)
    former(adapter)
  end
end
"""
_DELETE_VERSION = f"""{_WITHOUT}
local number, adapter, path = unpack(ARGV)
if redis.call('hget', KEYS[2], 'live') == number then return 'live' end
local record = redis.call('hget', KEYS[3], number)
if not record then return 'gone' end
forget(number, record, adapter)
drop(path)
return 'deleted'
"""
_FORGET = f"""{_WITHOUT}
local number, adapter = unpack(ARGV)
if redis.call('hget', KEYS[2], 'live') == number then
  local file = redis.call('hget', KEYS[2], 'live_file')
  if file then drop(file) end
  redis.call('hdel', KEYS[2], 'live', 'live_file')
end
local record = redis.call('hget', KEYS[3], number)
if record then forget(number, record, adapter) end
"""
_DELETE = """
local adapter, folder, earlier = unpack(ARGV)
local dropped = {earlier, redis.call('hget', KEYS[2], 'live_file') or nil}
for _, number in ipairs(redis.call('hkeys', KEYS[3])) do
  dropped[#dropped + 1] = folder .. string.format('/versions/%06d.safetensors', number)
end
if #redis.call('hkeys', KEYS[3]) == 0 then return {} end
redis.call('zrem', KEYS[1], adapter)
redis.call('hdel', KEYS[2], 'live', 'live_file')
redis.call('del', KEYS[3])
unaccount(KEYS[2])
former(adapter)
for _, path in ipairs(dropped) do drop(path) end
return dropped
"""
_RESTORE = """
local adapter, last, live, file = unpack(ARGV, 1, 4)
redis.call('del', KEYS[2], KEYS[3])
unaccount(KEYS[2])
redis.call('hset', KEYS[2], 'next', last)
if live ~= '' then redis.call('hset', KEYS[2], 'live', live) end
if file ~= '' then redis.call('hset', KEYS[2], 'live_file', file) end
for i = 5, #ARGV, 2 do
  redis.call('hset', KEYS[3], ARGV[i], ARGV[i + 1])
  account(KEYS[2], #ARGV[i + 1])
end
redis.call('zrem', KEYS[1], adapter)
if #ARGV > 4 then redis.call('zadd', KEYS[1], 0, adapter) else former(adapter) end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One fitted version: what the server must know before it reads the file, and its metrics."""

    tenant: str
    adapter: str
    number: int
    sha256: str  # of the whole artifact file
    bytes: int
    clip: str
    fingerprint: str
    classes: tuple[str, ...]
    template: str
    logit_scale: float
    created_at: str
    metrics: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)  # ids of classes in the tool they come from

    @property
    def kind(self) -> Literal["instant", "full"]:
        """Whether it is of photos' features alone; earlier releases made full ones."""
        return "instant" if self.metrics.get("kind") == "instant" else "full"

    @property
    def path(self) -> str:
        """Where its artifact lies in the object store."""
        return version_path(_folder(self.tenant, self.adapter), self.number)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Versions newest first; `live` is None until the first one is published."""

    name: str
    live: int | None
    versions: tuple[Version, ...]


class Adapters:
    """Adds, publishes, finds and deletes versions."""

    def __init__(
        self, store: RecordStore, blobs: Blobs, deletion: Deletion, lookups: RecordStore
    ) -> None:
        self._store, self._blobs, self._deletion = store, blobs, deletion
        self._lookups = lookups

    def next_number(self, tenant: str, adapter: str) -> int:
        """A new version number. Numbers are never used twice."""
        return int(self._run(_NEXT, tenant, adapter, adapter))

    def add(self, manifest: Manifest, data: bytes) -> Version:
        """Stores an artifact under its number: first its file, then its record.

        The file of a number never changes. If a worker that died had stored it already, that file
        is kept and its version returned.

        Raises:
            NotFound: the tenant was erased.
            Unavailable: a store is away, or was away for so long that the file was swept.
        """
        version = version_of(manifest, data)
        tenant, adapter = version.tenant, version.adapter
        if not self._run(_INTEND, tenant, adapter, str(version.number), version.path):
            raise Unavailable("a file of this name is being deleted")
        if not self._blobs.create(version.path, data):
            data = self._blobs.get(version.path)
            version = version_of(decode_artifact(data).manifest, data)
        record = _text(version)
        what = (str(version.number), record, adapter, version.path)
        if not self._run(_RECORD, tenant, adapter, *what):
            raise Unavailable("storing this version took too long")
        return version

    def publish(
        self,
        tenant: str,
        adapter: str,
        number: int,
        allowed: Callable[[Version | None], bool] = lambda live: True,
    ) -> bool:
        """Makes a version live, if `allowed` returns True for the version that is live now.

        Servers look up the live version for each request, so none answers with the old one later.

        Returns:
            Whether it is live.

        Raises:
            NotFound: no such adapter or version.
        """
        for _ in range(_TRIES):
            self.version(tenant, adapter, number)
            live = self.live_number(tenant, adapter)
            if not allowed(self._version_or_none(tenant, adapter, live)):
                return False
            outcome = self._go_live(tenant, adapter, number, live)
            if outcome == "live":
                return True
            if outcome == "gone":
                raise NotFound(f"there is no version {number} of an adapter {adapter!r}")
            if outcome == "late":
                raise Unavailable("publishing took too long")
        raise Conflict("others publish versions of this adapter at the same time")

    def _go_live(self, tenant: str, adapter: str, number: int, live: int | None) -> str:
        """`live`; else `gone` (no such version), `changed` (another version is live) or `late`."""
        folder = _folder(tenant, adapter)
        (path,) = self._deletion.intend(tenant, f"{folder}/live/REVISION.json")
        self._blobs.put(path, json.dumps({"version": number}).encode())
        expected = "" if live is None else str(live)
        what = (str(number), expected, path, f"{folder}/live.json")
        outcome, dropped = self._run(_GO_LIVE, tenant, adapter, *what)
        self._deletion.discard([dropped] if dropped else [])
        return str(outcome)

    def _version_or_none(self, tenant: str, adapter: str, number: int | None) -> Version | None:
        """The version of this number; None if there is none."""
        try:
            return None if number is None else self.version(tenant, adapter, number)
        except NotFound:
            return None

    def get(self, tenant: str, adapter: str) -> Adapter:
        """An adapter with its versions.

        Raises:
            NotFound: there is none of this name.
        """
        (found,) = self._read_all(tenant, [adapter])
        if found is None:
            raise NotFound(f"there is no adapter {adapter!r}")
        return found

    def page(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        """A page of the tenant's adapters, without those deleted while it was read."""
        page = members(self._store, tenant_redis_key(tenant, "adapters"), limit, cursor)
        found = self._read_all(tenant, page.items)
        return Page([adapter for adapter in found if adapter], page.cursor)

    def _read_all(self, tenant: str, names: list[str]) -> list[Adapter | None]:
        """The adapters by their names, in one round trip; None for one without a version."""
        with self._store.pipeline() as pipe:
            for name in names:
                pipe.hget(self._name(tenant, name), "live")
                pipe.hvals(self._name(tenant, name, "versions"))
            answers = pipe.execute()
        found: list[Adapter | None] = []
        for name, live, records in zip(names, answers[::2], answers[1::2], strict=True):
            versions = sorted(map(_read, records), key=lambda v: -v.number)
            number = int(live) if live else None
            found.append(Adapter(name, number, tuple(versions)) if versions else None)
        return found

    def version(self, tenant: str, adapter: str, number: int | None = None) -> Version:
        """A version by number, or the live one.

        Raises:
            NotFound: no such adapter or version. Another one never takes its place.
            Conflict: the adapter has no live version.
        """
        wanted = number if number is not None else self.live_number(tenant, adapter)
        if wanted is None:
            self.get(tenant, adapter)
            raise Conflict(f"no version of {adapter!r} is published")
        record = self._lookups.hget(self._name(tenant, adapter, "versions"), str(wanted))
        if record is None:
            raise NotFound(f"there is no version {wanted} of an adapter {adapter!r}")
        return _read(record)

    def with_report(self, version: Version) -> Version:
        """A version with its whole report, which is read from its artifact's header.

        Records of earlier releases have the whole report already. If the file cannot be read now,
        the version is returned as it is.
        """
        if any(part in version.metrics.get("adapted", {}) for part in _LONG):
            return version
        try:
            head = self._blobs.get_range(version.path, 0, min(_HEAD_BYTES, version.bytes))
            length = header_length(head)
            if length > len(head):
                head = self._blobs.get_range(version.path, 0, length)
            return replace(version, metrics=read_manifest(head).info.get("metrics", {}))
        except (BadArtifact, NotFound, Unavailable):
            return version

    def delete_version(self, tenant: str, adapter: str, number: int) -> None:
        """Deletes a version.

        Raises:
            NotFound: there is none of this number.
            Conflict: it is the live one.
        """
        path = version_path(_folder(tenant, adapter), number)
        outcome = self._run(
            _DELETE_VERSION, tenant, adapter, str(number), adapter, path, frees=True
        )
        if outcome == "live":
            raise Conflict(f"version {number} of {adapter!r} is live")
        if outcome == "gone":
            raise NotFound(f"there is no version {number} of an adapter {adapter!r}")
        self._deletion.discard([path])

    def forget(self, tenant: str, adapter: str, number: int) -> None:
        """Drops the record of a version whose file is missing, even if it is live."""
        self._run(_FORGET, tenant, adapter, str(number), adapter)

    def live_file(self, tenant: str, adapter: str) -> str:
        """The path of the file that says which version is live."""
        found: str | None = self._store.hget(self._name(tenant, adapter), "live_file")
        return found or f"{_folder(tenant, adapter)}/live.json"

    def delete(self, tenant: str, adapter: str) -> None:
        """Deletes an adapter with all its versions; their numbers are not given out again.

        Raises:
            NotFound: there is none of this name.
        """
        folder = _folder(tenant, adapter)
        what = (adapter, folder, f"{folder}/live.json")
        dropped = self._run(_DELETE, tenant, adapter, *what, frees=True)
        if not dropped:
            raise NotFound(f"there is no adapter {adapter!r}")
        self._deletion.discard(dropped)

    def restore(self, tenant: str, adapter: str, pending: Pending, left_out: LeftOut) -> None:
        """Makes the records of one adapter anew from its files.

        Args:
            tenant: whose adapter it is.
            adapter: its name.
            pending: files that are to be deleted; they are left out.
            left_out: called with the path of each file that cannot be read, and why. The file
                stays where it is, and its number stays taken.
        """
        folder, last = _folder(tenant, adapter), 0
        found: dict[str, str] = {}
        for path in self._blobs.paths(f"{folder}/versions"):
            name = path.rsplit("/", 1)[1].removesuffix(".safetensors")
            last = max(last, int(name) if name.isdecimal() else 0)
            if pending.covers(path):
                continue
            try:
                version = self._read_version(path)
            except BadArtifact as error:
                left_out(path, str(error))
            else:
                found[str(version.number)] = _text(version)
        live, file = self._newest_pointer(folder, pending, set(found))
        flat = [part for pair in found.items() for part in pair]
        self._run(_RESTORE, tenant, adapter, adapter, last, live, file, *flat)

    def _read_version(self, path: str) -> Version:
        """Raises BadArtifact, also for a file whose header names another path."""
        data = self._blobs.get(path)
        version = version_of(decode_artifact(data).manifest, data)
        if version.path != path:
            raise BadArtifact(f"it says that it is {version.path}")
        return version

    def _newest_pointer(self, folder: str, pending: Pending, numbers: set[str]) -> tuple[str, str]:
        """The live version and the file that says so.

        Returns:
            The number, "" if none is live, and the path, "" if an earlier release wrote it.
        """
        paths = sorted((p for p in self._blobs.paths(f"{folder}/live")), reverse=True)
        for path in [*paths, f"{folder}/live.json"]:
            if pending.covers(path):
                continue
            try:
                number = str(live_version(self._blobs.get(path)))
            except NotFound:
                continue
            if number in numbers:
                return number, path if path in paths else ""
        return "", ""

    def _run(self, script: str, tenant: str, adapter: str, *args: Any, frees: bool = False) -> Any:
        keys = (
            tenant_redis_key(tenant, "adapters"),
            self._name(tenant, adapter),
            self._name(tenant, adapter, "versions"),
        )
        return self._store.tenant_step(tenant, script, keys, *args, frees=frees)

    def live_number(self, tenant: str, adapter: str) -> int | None:
        """The number of the live version; None if none is live."""
        live = self._lookups.hget(self._name(tenant, adapter), "live")
        return int(live) if live else None

    @staticmethod
    def _name(tenant: str, adapter: str, *parts: str) -> str:
        return tenant_redis_key(tenant, "adapter", adapter, *parts)


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """A report without the parts that grow with the number of classes, which the file keeps."""

    def short(value: Any) -> Any:
        return without(value) if isinstance(value, dict) else value

    def without(part: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in part.items() if name not in _LONG}

    return {name: short(value) for name, value in without(metrics).items()}


def _text(version: Version) -> str:
    """A version's record; without tags where there are none: earlier releases read such a one."""
    plain = asdict(replace(version, metrics=summary(version.metrics)))
    return json.dumps({name: value for name, value in plain.items() if name != "tags" or value})


def version_of(manifest: Manifest, data: bytes) -> Version:
    """The record of an artifact, from its manifest and its bytes."""
    return Version(
        tenant=manifest.tenant,
        adapter=manifest.adapter,
        number=manifest.version,
        sha256=sha256(data),
        bytes=len(data),
        clip=manifest.clip,
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        template=manifest.template,
        logit_scale=manifest.logit_scale,
        created_at=manifest.created_at,
        metrics=manifest.info.get("metrics", {}),
        tags=manifest.info.get("tags", {}),
    )


def version_path(folder: str, number: int) -> str:
    """Where a version of the adapter in `folder` lies."""
    return f"{folder}/versions/{number:06d}.safetensors"


def live_version(manifest: bytes) -> int:
    """The version that a live.json names."""
    return int(json.loads(manifest)["version"])


def _read(record: str) -> Version:
    plain = json.loads(record)
    return Version(**(plain | {"classes": tuple(plain["classes"])}))


def _folder(tenant: str, adapter: str) -> str:
    return f"tenants/{tenant}/adapters/{adapter}"
