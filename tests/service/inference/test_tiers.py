"""Adapters come and go on the device; an answer's weights are the ones that were asked for."""

import asyncio
from dataclasses import replace

import pytest
import torch

from adapters.artifact import Artifact, encode_artifact, sha256
from adapters.bank import Bank
from adapters.clip import FrozenCLIP
from adapters.errors import BadArtifact, DoesNotFit
from service.inference.engine import Engine
from service.inference.tiers import Tiers
from service.inference.torch_backend import TorchBackend
from service.records.adapters import Version, version_of
from tests.support.random_adapters import manifest_of, random_head, random_weights


def made(clip: FrozenCLIP, number: int) -> tuple[Version, bytes]:
    manifest = manifest_of(clip, version=number, classes=("x", "y"))
    data = encode_artifact(Artifact(manifest, random_weights(clip, number)))
    return version_of(manifest, data), data


class Store:
    """Blobs in memory that count how often they are read."""

    def __init__(self, clip: FrozenCLIP, count: int) -> None:
        pairs = [made(clip, number) for number in range(1, count + 1)]
        self.versions = [version for version, _ in pairs]
        self.blobs = {version.path: data for version, data in pairs}
        self.reads: list[str] = []

    def fetch(self, path: str) -> bytes:
        self.reads.append(path)
        return self.blobs[path]


@pytest.fixture
def engine(clip: FrozenCLIP):
    bank = Bank(clip.image, clip.text, 3, 32, 3, 2)  # the frozen CLIP and two adapters
    running = Engine(TorchBackend(clip, bank), 8, 64)
    running.bank = bank
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def store(clip: FrozenCLIP) -> Store:
    return Store(clip, 4)


@pytest.fixture
def tiers(clip: FrozenCLIP, engine: Engine, store: Store) -> Tiers:
    store.reads.clear()
    return Tiers(engine, clip, 3, host_adapters=3, fetch=store.fetch)


async def use(tiers: Tiers, version: Version) -> str:
    async with tiers.lease(version) as lease:
        return lease.tier


def test_the_first_use_reads_the_blob_the_next_finds_the_device(tiers: Tiers, store: Store) -> None:
    async def run() -> list[str]:
        return [await use(tiers, store.versions[0]) for _ in range(3)]

    assert asyncio.run(run()) == ["blob", "device", "device"]
    assert len(store.reads) == 1


def test_the_slot_holds_exactly_the_versions_weights(
    tiers: Tiers, engine: Engine, store: Store, clip: FrozenCLIP
) -> None:
    async def run() -> None:
        for version in [*store.versions, *reversed(store.versions)]:
            async with tiers.lease(version) as lease:
                expected = random_weights(clip, version.number).image.down
                assert (engine.bank.image.down[lease.slot] == expected).all()

    asyncio.run(run())


def test_the_least_recently_used_goes_to_host_memory_and_then_to_the_blobs(
    tiers: Tiers, store: Store
) -> None:
    a, b, c, d = store.versions

    async def run() -> list[str]:
        return [await use(tiers, version) for version in (a, b, a, c, b, d, a, c)]

    tiers_used = asyncio.run(run())
    # the bank holds two: b was put out by c; host memory holds three: a by d, c by the second a
    assert tiers_used[:6] == ["blob", "blob", "device", "blob", "host", "blob"]
    assert tiers_used[6:] == ["blob", "blob"]


def test_many_who_wait_for_one_adapter_load_it_once(tiers: Tiers, store: Store) -> None:
    async def run() -> None:
        await asyncio.gather(*(use(tiers, store.versions[0]) for _ in range(50)))

    asyncio.run(run())
    assert len(store.reads) == 1


def test_a_pinned_adapter_stays_on_the_device(
    clip: FrozenCLIP, engine: Engine, store: Store
) -> None:
    a, b, c, _ = (replace(v, adapter=n) for v, n in zip(store.versions, "abcd", strict=True))
    store.blobs |= {
        v.path: store.blobs[s.path] for v, s in zip((a, b, c), store.versions[:3], strict=True)
    }
    tiers = Tiers(engine, clip, 3, 3, store.fetch, pinned=frozenset({"t/a"}))

    async def run() -> list[str]:
        return [await use(tiers, version) for version in (a, b, c, b, c, a)]

    assert asyncio.run(run()) == ["blob", "blob", "blob", "host", "host", "device"]


def test_pins_that_fill_the_bank_are_refused(clip: FrozenCLIP, engine: Engine) -> None:
    with pytest.raises(DoesNotFit, match="2 pinned adapters fill a bank of 2"):
        Tiers(engine, clip, 3, 3, lambda _: b"", pinned=frozenset({"t/a", "t/b"}))


def test_a_leased_adapter_is_not_put_out(tiers: Tiers, store: Store) -> None:
    a, b, c, _ = store.versions

    async def run() -> None:
        async with tiers.lease(a) as held, tiers.lease(b):
            waiting = asyncio.create_task(use(tiers, c))
            await asyncio.sleep(0.2)
            assert not waiting.done()  # both slots are leased
            assert await use(tiers, a) == "device"
        assert await asyncio.wait_for(waiting, 5) == "blob"
        assert held.slot in (1, 2)

    asyncio.run(run())


def test_a_changed_file_is_an_error_and_takes_no_slot(tiers: Tiers, store: Store) -> None:
    good, other = store.versions[:2]
    bad = replace(good, number=2)  # whose blob is another version's

    async def run() -> None:
        for _ in range(5):
            with pytest.raises(BadArtifact, match="was changed"):
                await use(tiers, replace(bad, sha256="0" * 64))
        assert await use(tiers, good) == "blob"
        assert await use(tiers, other) == "blob"

    asyncio.run(run())


def test_an_adapter_of_another_clip_is_an_error(
    clip: FrozenCLIP, engine: Engine, store: Store
) -> None:
    version = store.versions[0]
    manifest = manifest_of(clip, clip="other", fingerprint="0" * 64, classes=("x", "y"))
    data = encode_artifact(Artifact(manifest, random_weights(clip, 1)))
    tiers = Tiers(engine, clip, 3, 3, lambda path: data)

    async def run() -> None:
        with pytest.raises(BadArtifact, match="was fitted on other"):
            await use(tiers, replace(version, sha256=sha256(data)))

    asyncio.run(run())


def test_a_tenant_holds_half_of_the_slots_at_most_while_another_waits(
    tiers: Tiers, store: Store
) -> None:
    """Two slots: a flood of one tenant's three adapters, and one adapter of another tenant's."""
    flood, calm = store.versions[:3], replace(store.versions[3], tenant="calm")
    store.blobs[calm.path] = store.blobs[store.versions[3].path]
    held: list[Version] = []

    async def hold(version: Version, release: asyncio.Event) -> None:
        async with tiers.lease(version):
            held.append(version)
            await release.wait()

    async def until(count: int) -> None:
        while len(held) < count:
            await asyncio.sleep(0.01)

    async def run() -> None:
        releases = {v.number: asyncio.Event() for v in (*flood, calm)}
        tasks = [asyncio.create_task(hold(v, releases[v.number])) for v in flood]
        await until(2)  # the whole bank, since nobody else wanted it
        tasks.append(asyncio.create_task(hold(calm, releases[calm.number])))
        while calm.path not in store.reads:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # now it waits behind the flood's third
        releases[held[0].number].set()
        await asyncio.wait_for(until(3), 5)
        assert held[2] is calm
        for release in releases.values():
            release.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert len(held) == 4


def test_a_lease_carries_the_head_wherever_the_adapter_was_found(
    clip: FrozenCLIP, engine: Engine, store: Store
) -> None:
    """Bank of two, host memory of one: the head outlives its entry there, not its slot."""
    head = random_head(2, clip.embed_dim)
    manifest = manifest_of(clip, version=9, classes=("x", "y"))
    data = encode_artifact(Artifact(manifest, random_weights(clip, 9), head))
    version = version_of(manifest, data)
    blobs = store.blobs | {version.path: data}
    tiers = Tiers(engine, clip, 3, host_adapters=1, fetch=blobs.__getitem__)
    a, b, _, _ = store.versions

    async def run() -> None:
        for used in (version, a, version, b, a, version):
            async with tiers.lease(used) as lease:
                assert (lease.head is not None) == (used is version)
                if lease.head is not None:
                    assert torch.equal(lease.head.photos, head.photos.float())
                    assert lease.head.offset == head.offset

    asyncio.run(run())


@pytest.mark.parametrize("width", [12, 1000])
def test_a_head_of_another_width_is_refused_before_a_slot_is_written(
    clip: FrozenCLIP, engine: Engine, width: int
) -> None:
    manifest = manifest_of(clip, classes=("x", "y"))
    data = encode_artifact(Artifact(manifest, random_weights(clip, 1), random_head(2, width)))
    tiers = Tiers(engine, clip, 3, 3, lambda path: data)

    async def run() -> None:
        with pytest.raises(BadArtifact, match=f"a head for features of {width} numbers"):
            await use(tiers, version_of(manifest, data))

    before = engine.bank.image.down.clone()
    asyncio.run(run())
    assert torch.equal(engine.bank.image.down, before)
