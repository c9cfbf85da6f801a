"""Redis and the object store agree, whatever happens at once and whatever fails in between.

Hypothesis draws what is done at once, the order of every single call of a store, and which of these
calls are refused, lose their answer, or end with the death of their process. After each run:
a record names no file that is missing, no file is left that no record names, nothing of what was
deleted is in either store, and nothing that was acknowledged is lost.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from service.embedded.redis_server import RedisServer
from service.errors import NotFound
from service.records import Records, blobs, features, open_records, store
from service.records.adapters import version_path
from service.records.features import PhotoFile
from service.records.restore import restore
from service.records.store import DELETING, UNNAMED, tenant_redis_key
from service.settings import Settings
from tests.support.interleaving import Call, Killed, Step, at_store_call, interleave
from tests.support.random_adapters import manifest_of, random_weights
from tests.support.records import usage_of
from training.data import Sample

EXAMPLES = int(os.environ.get("TWO_STORES_EXAMPLES", "150"))  # `make soak` takes 20,000
PICTURES, LABELS = 2, ("cat", "dog")
CLIP_KEY = "0123456789abcdef"


class OneThread:
    """In place of a pool, so that each call of a store is the caller's own step."""

    def __init__(self, threads: int) -> None: ...

    def __enter__(self) -> "OneThread":
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


@pytest.fixture
def each_store_call_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis's commands and pipelines, and the object store's methods, go through the scheduler."""

    def stepwise(kind: type, name: str) -> None:
        plain = getattr(kind, name)

        def method(self: Any, *args: Any, **options: Any) -> Any:
            return at_store_call(lambda: plain(self, *args, **options))

        monkeypatch.setattr(kind, name, method)

    stepwise(store.RecordStore, "execute_command")
    stepwise(store.RecordPipeline, "execute")
    for name in ("put", "create", "get", "delete", "delete_all", "files"):
        stepwise(blobs.Blobs, name)
    monkeypatch.setattr(features, "ThreadPoolExecutor", OneThread)


@dataclass
class World:
    """One tenant with a data set, a picture in it, and an adapter with a live version."""

    records: Records
    clip: FrozenCLIP
    tenant: str
    dataset: str
    keys: list[str]
    uploads: int = 0
    made: list[str] = field(default_factory=list)

    def picture(self, number: int, label: str) -> Sample:
        return Sample(label, f"{number}.jpg", f"picture {number}".encode())

    def upload(self, number: int, label: str, fails: bool) -> str | None:
        """As the API does it: the pictures one by one, then kept or undone."""
        self.uploads += 1
        name = f"upload-{self.uploads}"
        datasets = self.records.datasets
        added = datasets.add(self.tenant, self.dataset, self.picture(number, label), name)
        new = [added.digest] if added.new else []
        if fails:
            datasets.undo(self.tenant, self.dataset, name, new)
            return None
        datasets.confirm(self.tenant, self.dataset, name, new)
        return added.digest

    def digest(self, number: int) -> str:
        return hashlib.sha256(self.picture(number, "").data).hexdigest()

    def fit(self) -> int:
        """As a worker ends a fit: a version under a new number, then live."""
        number = self.records.adapters.next_number(self.tenant, "things")
        manifest = manifest_of(self.clip, tenant=self.tenant, adapter="things", version=number)
        data = encode_artifact(Artifact(manifest, random_weights(self.clip, 1, rank=1)))
        version = self.records.adapters.add(manifest, data)
        self.records.adapters.publish(self.tenant, "things", version.number)
        return number

    def keep_features(self) -> int:
        """As a worker does after it has read the photos."""
        listed = self.records.datasets.listing(self.tenant, self.dataset)
        files = [PhotoFile(one.image.digest, one.file) for one in listed]
        kept = {file: file.digest.encode() for file in files}
        self.records.features.keep(self.tenant, self.dataset, CLIP_KEY, kept)
        found = self.records.features.read(self.tenant, self.dataset, CLIP_KEY, files)
        assert all(data == digest.encode() for digest, data in found.items())
        return len(found)

    def add_key(self) -> None:
        self.keys.append(self.records.tenants.add_key(self.tenant, "manage")[1])


def calls_of(world: World) -> dict[str, Callable[[], Any]]:
    """What may be done at once, by name."""
    records, tenant, dataset = world.records, world.tenant, world.dataset
    made: dict[str, Callable[[], Any]] = {}
    for number in range(PICTURES):
        digest = world.digest(number)
        made[f"remove {number}"] = lambda d=digest: records.datasets.remove(tenant, dataset, d)
        for label in LABELS:
            made[f"upload {number} {label}"] = lambda n=number, x=label: world.upload(n, x, False)
            made[f"move {number} {label}"] = lambda d=digest, x=label: records.datasets.move(
                tenant, dataset, d, x
            )
        made[f"failing upload {number}"] = lambda n=number: world.upload(n, "cat", True)
    made["delete data set"] = lambda: records.datasets.delete(tenant, dataset)
    made["create data set"] = lambda: records.datasets.create(tenant, "another")
    made["fit"] = world.fit
    made["publish 1"] = lambda: records.adapters.publish(tenant, "things", 1)
    made["delete version 1"] = lambda: records.adapters.delete_version(tenant, "things", 1)
    made["delete adapter"] = lambda: records.adapters.delete(tenant, "things")
    made["add key"] = world.add_key
    made["revoke key"] = lambda: records.tenants.revoke_key(
        tenant, records.tenants.get(tenant).keys[0].id
    )
    made["erase"] = lambda: records.tenants.erase(tenant)
    made["sweep"] = records.deletion.sweep
    for number in range(2):
        made[f"keep features {number}"] = world.keep_features
    return made


class _Names:
    """Stands for a world while the calls' names are collected."""

    tenant = dataset = ""
    records: Any = Mock()
    fit = add_key = upload = keys = keep_features = None

    def digest(self, number: int) -> str:
        return ""


NAMES = sorted(calls_of(_Names()))  # type: ignore[arg-type]


def named_files(records: Records) -> dict[str, str]:
    """Every file that a record names, and by what."""
    read, found = records.store, {"format.json": "the format"}
    for tenant in records.tenants.page(100, None).items:
        file = read.hget(store.redis_key("tenant-files"), tenant.id)
        found[file or f"tenants/{tenant.id}/tenant.json"] = "tenant"
        for dataset in records.datasets.page(tenant.id, 100, None).items:
            folder = f"tenants/{tenant.id}/datasets/{dataset.id}"
            found[f"{folder}/dataset.json"] = "data set"
            files = read.hgetall(tenant_redis_key(tenant.id, "dataset", dataset.id, "files"))
            for digest, names in files.items():
                name, revision = names.split()
                found[f"{folder}/images/{digest}/{name}"] = "picture"
                found[f"{folder}/images/{digest}/{name}.{revision}.json"] = "label"
            listed = records.datasets.listing(tenant.id, dataset.id)
            photos = [PhotoFile(one.image.digest, one.file) for one in listed]
            for path in records.features.paths(tenant.id, dataset.id, photos):
                with suppress(NotFound):  # it may be missing
                    records.blobs.get(path)
                    found[path] = "feature"
        for adapter in records.adapters.page(tenant.id, 100, None).items:
            folder = f"tenants/{tenant.id}/adapters/{adapter.name}"
            for version in adapter.versions:
                found[version_path(folder, version.number)] = "version"
            live = read.hget(tenant_redis_key(tenant.id, "adapter", adapter.name), "live_file")
            if live:
                found[live] = "live"
    return found


def settle(records: Records) -> None:
    """All the time passes that a sweep may wait for."""
    for _ in range(3):
        for key in (UNNAMED, DELETING, store.redis_key("erased-tenants")):
            for member, score in records.store.zrange(key, 0, -1, withscores=True):
                if score != float("inf"):
                    records.store.zadd(key, {member: 0})
        records.tenants.sweep()
        records.deletion.sweep()
    for tenant in records.tenants.page(100, None).items:
        places = tenant_redis_key(tenant.id, "places")
        for member in records.store.zrange(places, 0, -1):
            records.store.zadd(places, {member: 0})
        with suppress(NotFound):  # it frees those that lapsed
            records.datasets.take_place(tenant.id, "none", 1)


def state(records: Records) -> dict[str, Any]:
    """What tenants see: labels, pictures and live versions."""
    seen: dict[str, Any] = {}
    for tenant in records.tenants.page(100, None).items:
        keys = sorted(key.id for key in tenant.keys)
        datasets = {}
        for dataset in records.datasets.page(tenant.id, 100, None).items:
            samples = records.datasets.samples(tenant.id, dataset.id)
            pictures = sorted((s.label, s.data) for s in samples)
            datasets[dataset.id] = (dataset.labels, pictures)
        adapters = {
            adapter.name: (adapter.live, [version.number for version in adapter.versions])
            for adapter in records.adapters.page(tenant.id, 100, None).items
        }
        seen[tenant.id] = (keys, datasets, adapters, usage_of(records, tenant.id))
    return seen


def recorded_bytes(records: Records, tenant: str) -> int:
    """Bytes of the records of a tenant's pictures and versions, added up one by one."""
    datasets = records.datasets.page(tenant, 100, None).items
    adapters = records.adapters.page(tenant, 100, None).items
    owners = [("dataset", one.id, "images") for one in datasets]
    owners += [("adapter", one.name, "versions") for one in adapters]
    texts = [t for owner in owners for t in records.store.hvals(tenant_redis_key(tenant, *owner))]
    return sum(len(text.encode()) for text in texts)


def counted_bytes(records: Records, tenant: str) -> int:
    return int(records.store.hget(tenant_redis_key(tenant, "record-bytes"), "total"))


def check(world: World, calls: list[Call]) -> None:
    """The two stores agree, what was deleted is gone, what was acknowledged is there."""
    records, tenant = world.records, world.tenant
    acknowledged = {call.name for call in calls if call.acknowledged}
    begun = {call.name for call in calls}
    settle(records)
    assert set(records.blobs.paths("")) == set(named_files(records))
    assert not records.store.zcard(UNNAMED) and not records.store.zcard(DELETING)
    found = state(records)
    if "erase" in acknowledged:
        assert tenant not in found
    if tenant not in found:
        assert not [name for name in records.store.scan_iter() if tenant in name]
        for key in world.keys:
            with pytest.raises(Exception, match="not known"):
                records.tenants.authenticate(key)
        return
    for key in world.keys if "revoke key" not in begun else []:
        assert records.tenants.authenticate(key).tenant == tenant
    _, datasets, adapters, usage = found[tenant]
    pictures = [picture for _, stored in datasets.values() for picture in stored]
    assert usage.images == len(pictures)
    assert usage.bytes == sum(len(data) for _, data in pictures)
    assert usage.datasets == len(datasets)
    assert counted_bytes(records, tenant) == recorded_bytes(records, tenant)
    for labels, stored in datasets.values():
        counted = {label: sum(label == x for x, _ in stored) for label, _ in stored}
        assert labels == counted
    for live, numbers in adapters.values():
        assert live is None or live in numbers
    if "delete data set" in acknowledged:
        assert world.dataset not in datasets
    for number in range(PICTURES):
        data = world.picture(number, "").data
        there = [label for label, stored in pictures if stored == data]
        others = {f"remove {number}", "delete data set"} & begun
        if any(f"upload {number} {label}" in acknowledged for label in LABELS) and not others:
            assert len(there) == 1
        uploads = {name for name in begun if f"upload {number}" in name}
        if f"remove {number}" in acknowledged and not uploads:
            assert there == []
    if "fit" in acknowledged and not {"delete adapter", "delete version 1"} & begun:
        assert "things" in adapters and adapters["things"][0] is not None
    records.store.flushdb()
    restore(records, lambda path, reason: pytest.fail(f"{path}: {reason}"))
    assert state(records) == found
    assert counted_bytes(records, tenant) == recorded_bytes(records, tenant)


@pytest.fixture
def new_world(
    settings: Settings, server: RedisServer, clip: FrozenCLIP, tmp_path: Path
) -> Iterator[Callable[[], World]]:
    count = 0

    def made() -> World:
        nonlocal count
        count += 1
        folder = tmp_path / f"blobs{count}"
        records = open_records(server.url, folder.as_uri(), settings)
        records.store.flushdb()
        tenant, key = records.tenants.create("someone")
        dataset = records.datasets.create(tenant.id, "photos").id
        world = World(records, clip, tenant.id, dataset, [key])
        world.upload(0, "cat", fails=False)
        world.fit()
        world.fit()
        return world

    yield made


# Of all kinds, or of those that touch the same picture, adapter or tenant.
_ABOUT = (
    "",
    "1",
    "0",
    "(upload|move) 1",
    "version|adapter|fit|publish",
    "key|erase|upload 1",
    "features|remove|sweep|delete data set",
)
CALLS = st.one_of(
    *(
        st.lists(st.sampled_from([n for n in NAMES if re.search(about, n)]), min_size=2, max_size=5)
        for about in _ABOUT
    )
)
STEPS: list[Step] = ["go"] * 12 + ["refuse", "lose", "kill"]


def test_the_two_stores_agree_after_any_interleaving_with_any_fault(
    new_world: Callable[[], World], each_store_call_is_a_step: None
) -> None:
    tally = {"interleavings": 0, "store calls": 0, "faults": 0}

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CALLS, st.integers(0, 2**32))
    def run(names: list[str], seed: int) -> None:
        random = Random(seed)
        world = new_world()
        work = calls_of(world)
        calls = [Call(name, work[name]) for name in names]

        def fault() -> Step:
            step = random.choice(STEPS)
            tally["faults"] += step != "go"
            return step

        tally["store calls"] += interleave(calls, random.randrange, fault)
        tally["interleavings"] += 1
        for call in calls:
            refused = (RMAdapterError, Killed)
            assert call.error is None or isinstance(call.error, refused), call.error
        check(world, calls)

    run()
    print(json.dumps(tally))
    assert tally["interleavings"] >= EXAMPLES and tally["faults"] > EXAMPLES
