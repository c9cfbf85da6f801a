"""Adapters: named classifiers of a tenant, their versions, and which version is live.

tenants/T/adapters/A/versions/N.safetensors   a version; its header says all about it
tenants/T/adapters/A/live.json                which version answers
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from adapters.artifact import Manifest, decode_artifact, sha256
from adapters.errors import BadArtifact
from service.errors import Conflict, NotFound
from service.records.blobs import Blobs
from service.records.store import Page, RecordStore, members, tenant_redis_key

LeftOut = Callable[[str, str], None]  # is told a blob's path, and why it was left out
_LOCK_SECONDS = 30.0  # a publish writes two small records

_GO_LIVE = """
if redis.call('hexists', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('hset', KEYS[2], 'live', ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One fitted version: what the server must know before it has the file, and its metrics."""

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

    def __init__(self, store: RecordStore, blobs: Blobs) -> None:
        self._store, self._blobs = store, blobs

    def next_number(self, tenant: str, adapter: str) -> int:
        """A number that no version of this adapter had or will have."""
        return int(self._store.hincrby(self._name(tenant, adapter), "next", 1))

    def add(self, manifest: Manifest, data: bytes) -> Version:
        """Stores an artifact under its number: the blob first, for it is the truth.

        A number's file never changes: when a worker that died had stored it already, that file
        stands, and its version is returned.
        """
        version = version_of(manifest, data)
        if not self._blobs.create(version.path, data):
            data = self._blobs.get(version.path)
            version = version_of(decode_artifact(data).manifest, data)
        self._record(version)
        return version

    def _record(self, version: Version) -> None:
        tenant, adapter = version.tenant, version.adapter
        versions = self._name(tenant, adapter, "versions")
        with self._store.pipeline() as pipe:
            pipe.hset(versions, str(version.number), json.dumps(asdict(version)))
            pipe.zadd(tenant_redis_key(tenant, "adapters"), {adapter: 0})
            pipe.execute()

    def publish(
        self,
        tenant: str,
        adapter: str,
        number: int,
        allowed: Callable[[Version | None], bool] = lambda live: True,
    ) -> bool:
        """Makes a version live, if `allowed` says so of the one that is; True when it did.

        Every server looks up what is live for each request, so none answers with the old one after.
        """
        with self._lock(tenant, adapter):
            self.version(tenant, adapter, number)
            if not allowed(self._live_version(tenant, adapter)):
                return False
            manifest = json.dumps({"version": number})
            live_path = f"{_folder(tenant, adapter)}/live.json"
            self._blobs.put(live_path, manifest.encode())
            name = self._name(tenant, adapter)
            versions = self._name(tenant, adapter, "versions")
            if not self._store.eval(_GO_LIVE, 2, versions, name, str(number)):
                self._blobs.delete(live_path)  # the adapter was deleted, its lock having ended
                raise NotFound(f"there is no version {number} of an adapter {adapter!r}")
            return True

    def _live_version(self, tenant: str, adapter: str) -> Version | None:
        """The version that answers; None also where it has gone."""
        try:
            return self.version(tenant, adapter)
        except (NotFound, Conflict):
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
        """A page of the tenant's adapters, without those that went while it was read."""
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
            NotFound: no such adapter or version. Never answered by another one.
            Conflict: the adapter has no live version.
        """
        wanted = number if number is not None else self._live(tenant, adapter)
        if wanted is None:
            self.get(tenant, adapter)
            raise Conflict(f"no version of {adapter!r} is published")
        record = self._store.hget(self._name(tenant, adapter, "versions"), str(wanted))
        if record is None:
            raise NotFound(f"there is no version {wanted} of an adapter {adapter!r}")
        return _read(record)

    def delete_version(self, tenant: str, adapter: str, number: int) -> None:
        """Raises Conflict for the live one."""
        version = self.version(tenant, adapter, number)
        with self._lock(tenant, adapter):
            if self._live(tenant, adapter) == number:
                raise Conflict(f"version {number} of {adapter!r} is live")
            versions = self._name(tenant, adapter, "versions")
            self._store.hdel(versions, str(number))
            if not self._store.hlen(versions):
                self._store.zrem(tenant_redis_key(tenant, "adapters"), adapter)
            self._blobs.delete(version.path)

    def delete(self, tenant: str, adapter: str) -> None:
        """Deletes an adapter with all its versions; their numbers are not given out again."""
        self.get(tenant, adapter)
        with self._lock(tenant, adapter), self._store.pipeline() as pipe:
            pipe.zrem(tenant_redis_key(tenant, "adapters"), adapter)
            pipe.hdel(self._name(tenant, adapter), "live")
            pipe.delete(self._name(tenant, adapter, "versions"))
            pipe.execute()
            self._blobs.delete_all(_folder(tenant, adapter))

    def restore(self, tenant: str, adapter: str, left_out: LeftOut) -> None:
        """Makes the records of one adapter anew from its blobs.

        Args:
            tenant: whose adapter it is.
            adapter: its name.
            left_out: is told the path of each file that cannot be read, and why. The file stays
                where it is, and its number stays taken.
        """
        folder, last = _folder(tenant, adapter), 0
        for path in self._blobs.paths(f"{folder}/versions"):
            number = path.rsplit("/", 1)[1].removesuffix(".safetensors")
            last = max(last, int(number) if number.isdecimal() else 0)
            data = self._blobs.get(path)
            try:
                version = version_of(decode_artifact(data).manifest, data)
            except BadArtifact as error:
                left_out(path, str(error))
            else:
                self._record(version)
        self._store.hset(self._name(tenant, adapter), "next", str(last))
        try:
            live = live_version(self._blobs.get(f"{folder}/live.json"))
        except NotFound:
            return  # never published
        self._store.hset(self._name(tenant, adapter), "live", str(live))

    def _live(self, tenant: str, adapter: str) -> int | None:
        live = self._store.hget(self._name(tenant, adapter), "live")
        return int(live) if live else None

    @contextmanager
    def _lock(self, tenant: str, adapter: str) -> Iterator[None]:
        name = self._name(tenant, adapter, "lock")
        with self._store.lock(name, timeout=_LOCK_SECONDS, raise_on_release_error=False):
            yield

    @staticmethod
    def _name(tenant: str, adapter: str, *parts: str) -> str:
        return tenant_redis_key(tenant, "adapter", adapter, *parts)


def version_of(manifest: Manifest, data: bytes) -> Version:
    """The record of an artifact, from what its file says of itself and its bytes."""
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
    )


def version_path(folder: str, number: int) -> str:
    """Where a version of the adapter in `folder` lies."""
    return f"{folder}/versions/{number:06d}.safetensors"


def live_version(manifest: bytes) -> int:
    """What a live.json says."""
    return int(json.loads(manifest)["version"])


def _read(record: str) -> Version:
    plain = json.loads(record)
    return Version(**(plain | {"classes": tuple(plain["classes"])}))


def _folder(tenant: str, adapter: str) -> str:
    return f"tenants/{tenant}/adapters/{adapter}"
