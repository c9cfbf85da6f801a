"""The tiers of adapters: the bank on the device, then host memory, then the blob store.

An adapter's head, if it has one, stays in host memory: it scores features, after the device.

All code here runs on the event loop's thread, so it needs no locks. An adapter is identified by its
artifact's SHA-256, so that a slot never holds other weights than the requested ones. A slot is not
overwritten while a lease on it lasts.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from adapters.artifact import Artifact, check_clip, decode_artifact, sha256
from adapters.bank import FROZEN, AdapterWeights
from adapters.clip import FrozenCLIP
from adapters.errors import BadArtifact, DoesNotFit
from adapters.evidence import Evidence
from service import metrics
from service.caches import BoundedCache
from service.errors import NotFound, TooMany
from service.inference.engine import Engine
from service.inference.version import ServedVersion

Tier = Literal["device", "host", "blob"]

_WORKING_SET_SECONDS = 60.0
_SLOT_SECONDS = 5.0  # the longest wait; a slot is leased only for a few batches


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot that holds a version's weights while the lease lasts, and where they were found."""

    slot: int
    tier: Tier
    head: Evidence | None = None  # in float32; None: the version has none


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What host memory keeps of an artifact; the head in the precision of its file."""

    weights: AdapterWeights
    head: Evidence | None


class Tiers:
    """Hands out slots; least recently used adapters make room."""

    def __init__(
        self,
        engine: Engine,
        clip: FrozenCLIP,
        slots: int,
        host_adapters: int,
        fetch: Callable[[str], bytes],
        pinned: frozenset[str] = frozenset(),
    ) -> None:
        """`pinned` names adapters, as tenant/adapter, that are never evicted from the device.

        Raises:
            DoesNotFit: the pinned adapters would fill the bank.
        """
        self._engine, self._clip, self._fetch = engine, clip, fetch
        self._free = list(range(slots - 1, FROZEN, -1))
        self._capacity = len(self._free)
        if len(pinned) >= self._capacity:
            raise DoesNotFit(f"{len(pinned)} pinned adapters fill a bank of {self._capacity}")
        self._pinned: dict[str, str] = dict.fromkeys(pinned, "")  # tenant/adapter → last sha256
        self._resident: OrderedDict[str, int] = OrderedDict()  # sha256 → slot, oldest use first
        self._heads: dict[str, Evidence] = {}  # sha256 → the head of one in a slot, in host memory
        self._leases: Counter[str] = Counter()
        self._host: BoundedCache[str, _Loaded] = BoundedCache(host_adapters)
        self._loading: dict[str, asyncio.Task[Tier]] = {}
        self._released = asyncio.Condition()
        self._owners: dict[str, str] = {}  # sha256 of a leased adapter → its tenant
        self._waiting: Counter[str] = Counter()  # tenants that wait for a slot
        self._used: OrderedDict[str, float] = OrderedDict()  # sha256 → when, oldest first

    @asynccontextmanager
    async def lease(self, version: ServedVersion) -> AsyncIterator[Lease]:
        """Brings a version's weights onto the device, if they are not, and keeps them there.

        Raises:
            BadArtifact, DoesNotFit: the file cannot be used here; no other version replaces it.
            Unavailable: the object store does not answer.
        """
        sha = version.sha256
        self._count_use(sha)
        self._leases[sha] += 1  # from now on its slot is not given away
        self._owners[sha] = version.tenant
        name = f"{version.tenant}/{version.adapter}"
        if name in self._pinned:
            self._pinned[name] = sha
        try:
            tier = await self._ensure(version)
            metrics.ADAPTER_LOOKUPS.labels(tier).inc()
            self._resident.move_to_end(sha)
            yield Lease(self._resident[sha], tier, self._heads.get(sha))
        finally:
            self._leases[sha] -= 1
            if not self._leases[sha]:
                del self._leases[sha]
                self._owners.pop(sha, None)
            async with self._released:
                self._released.notify_all()

    async def _ensure(self, version: ServedVersion) -> Tier:
        sha = version.sha256
        if sha in self._resident:
            return "device"
        if sha not in self._loading:
            task = asyncio.create_task(self._load(version))
            self._loading[sha] = task
            task.add_done_callback(lambda done: self._loaded(sha, done))
        return await asyncio.shield(self._loading[sha])

    def _loaded(self, sha: str, done: asyncio.Task[Tier]) -> None:
        del self._loading[sha]
        if not done.cancelled():
            done.exception()  # seen, even where everyone who waited has gone meanwhile

    async def _load(self, version: ServedVersion) -> Tier:
        sha = version.sha256
        tier: Tier = "host" if sha in self._host else "blob"
        if tier == "blob":
            loaded = await asyncio.to_thread(self._read, version)
        else:
            loaded = self._host[sha]
        self._host.keep(sha, loaded)
        slot = await self._take_slot(version.tenant)
        try:
            await asyncio.wrap_future(self._engine.write(slot, loaded.weights))
        except BaseException:
            self._free.append(slot)
            raise
        self._resident[sha] = slot
        if loaded.head is not None:
            self._heads[sha] = loaded.head.float()
        return tier

    def _read(self, version: ServedVersion) -> _Loaded:
        name = f"the file of {version.adapter} version {version.number}"
        try:
            data = self._fetch(version.path)
        except NotFound as error:
            raise BadArtifact(f"{name} is missing") from error
        if sha256(data) != version.sha256:
            raise BadArtifact(f"{name} was changed")
        artifact: Artifact = decode_artifact(data)
        check_clip(artifact.manifest, self._clip)
        return _Loaded(artifact.weights, artifact.head)

    async def _take_slot(self, tenant: str) -> int:
        """A free slot, or that of the least recently used adapter without a lease or pin.

        Raises:
            TooMany: none was free for this tenant within `_SLOT_SECONDS`.
        """
        self._waiting[tenant] += 1
        try:
            async with asyncio.timeout(_SLOT_SECONDS), self._released:
                while (slot := self._slot_for(tenant)) is None:
                    await self._released.wait()
                return slot
        except TimeoutError as error:
            raise TooMany("all slots for adapters are in use", retry_after=1) from error
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    def _slot_for(self, tenant: str) -> int | None:
        """A slot, if the tenant may take one now: at most half of them while another waits."""
        in_use = sum(
            self._owners.get(sha) == tenant for sha in self._leases if sha in self._resident
        )
        if len(self._waiting) > 1 and in_use >= max(1, self._capacity // 2):
            return None
        if self._free:
            return self._free.pop()
        kept = {*self._leases, *self._pinned.values()}
        idle = next((sha for sha in self._resident if sha not in kept), None)
        if idle is None:
            return None
        metrics.ADAPTER_EVICTIONS.inc()
        self._heads.pop(idle, None)
        return self._resident.pop(idle)

    def _count_use(self, sha: str) -> None:
        now = time.monotonic()
        self._used[sha] = now
        self._used.move_to_end(sha)
        while next(iter(self._used.values())) < now - _WORKING_SET_SECONDS:
            self._used.popitem(last=False)
        metrics.WORKING_SET.set(len(self._used) / self._capacity)
