"""Data sets: labelled pictures of a tenant.

The blobs alone say everything but the file names:

tenants/T/datasets/D/dataset.json               its name
tenants/T/datasets/D/images/LABEL/label.json    a class (LABEL is a hash, for any name is allowed)
tenants/T/datasets/D/images/LABEL/SHA256        a picture as it was sent
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from service.errors import Invalid, NotFound, OverQuota, Problem
from service.records.blobs import Blobs
from service.records.store import Page, RecordStore, members, new_id, now, tenant_redis_key
from training.data import Sample

_MAX_CURSOR = 19  # digits of 64 bits
RESERVED_SECONDS = 600  # a place that was taken for a picture and not used by then is free again

# Each is one step for Redis, so that the counts of a tenant agree with what is stored, whatever
# happens at once, and may be repeated: the client does so when the connection broke before the
# answer. KEYS: a tenant's count of pictures, of bytes; then, of one data set, its record, pictures,
# labels, bytes; then the tenant's list of data sets, and its places taken for pictures that are not
# recorded yet: TOKEN:BYTES by the second at which they lapse, should the server die in between.
_TAKE = """
local function free(place)
  redis.call('zrem', KEYS[8], place)
  redis.call('decr', KEYS[1])
  redis.call('decrby', KEYS[2], string.match(place, ':(%d+)$'))
end
local clock, size = tonumber(redis.call('time')[1]), string.match(ARGV[3], ':(%d+)$')
for _, place in ipairs(redis.call('zrangebyscore', KEYS[8], 0, clock)) do free(place) end
if redis.call('zscore', KEYS[8], ARGV[3]) then return {} end
local images = tonumber(redis.call('get', KEYS[1]) or 0)
local bytes = tonumber(redis.call('get', KEYS[2]) or 0)
if images + 1 > tonumber(ARGV[1]) then return {'images', images} end
if bytes + size > tonumber(ARGV[2]) then return {'bytes', bytes} end
redis.call('zadd', KEYS[8], clock + ARGV[4], ARGV[3])
redis.call('incr', KEYS[1])
redis.call('incrby', KEYS[2], size)
return {}
"""
# A data set's place in the tenant's list, unless the list is full: then how many it holds.
_TAKE_NAME = """
local count = redis.call('zcard', KEYS[1])
if count >= tonumber(ARGV[2]) then return count end
redis.call('zadd', KEYS[1], 0, ARGV[1])
return -1
"""
_GIVE_BACK = """
if redis.call('zrem', KEYS[8], ARGV[1]) == 0 then return end
redis.call('decr', KEYS[1])
redis.call('decrby', KEYS[2], string.match(ARGV[1], ':(%d+)$'))
"""
_RECORD = """
if redis.call('exists', KEYS[3]) == 0 then return 'gone' end
if redis.call('hsetnx', KEYS[4], ARGV[1], ARGV[2]) == 0 then return 'there' end
redis.call('hincrby', KEYS[5], ARGV[3], 1)
redis.call('incrby', KEYS[6], ARGV[4])
if redis.call('zrem', KEYS[8], ARGV[5]) == 0 then
  redis.call('incr', KEYS[1])
  redis.call('incrby', KEYS[2], ARGV[4])
end
return 'new'
"""
_REMOVE = """
local record = redis.call('hget', KEYS[4], ARGV[1])
if not record then return end
redis.call('hdel', KEYS[4], ARGV[1])
local image = cjson.decode(record)
redis.call('hincrby', KEYS[5], image.label, -1)
redis.call('decrby', KEYS[6], image.bytes)
redis.call('decr', KEYS[1])
redis.call('decrby', KEYS[2], image.bytes)
return record
"""
_MOVE = """
local record = redis.call('hget', KEYS[4], ARGV[1])
if not record then return end
local image = cjson.decode(record)
if image.label ~= ARGV[2] then
  redis.call('hincrby', KEYS[5], image.label, -1)
  redis.call('hincrby', KEYS[5], ARGV[2], 1)
end
redis.call('hset', KEYS[4], ARGV[1], ARGV[3])
return record
"""
_DELETE = """
if redis.call('del', KEYS[3]) == 0 then return end
redis.call('decrby', KEYS[1], redis.call('hlen', KEYS[4]))
redis.call('decrby', KEYS[2], redis.call('get', KEYS[6]) or 0)
redis.call('del', KEYS[4], KEYS[5], KEYS[6])
redis.call('zrem', KEYS[7], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`labels`: pictures by class."""

    id: str
    name: str
    created_at: str
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has stored, or may have."""

    images: int
    bytes: int
    datasets: int


@dataclass(frozen=True, slots=True)
class Added:
    """Where a picture is now: in the class that was asked for, or the one it was in before."""

    label: str
    digest: str
    new: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of a data set; `digest` is the SHA-256 of its bytes as they were sent."""

    digest: str
    label: str
    name: str
    bytes: int


class Datasets:
    """Makes, fills, reads and deletes data sets, and counts what each tenant has."""

    def __init__(self, store: RecordStore, blobs: Blobs, quota: Usage) -> None:
        self._store, self._blobs, self.quota = store, blobs, quota

    def create(self, tenant: str, name: str) -> Dataset:
        """Makes an empty data set.

        Raises:
            OverQuota: the tenant has as many as allowed.
        """
        dataset, most = Dataset(new_id("dataset"), name, now(), {}), self.quota.datasets
        datasets = tenant_redis_key(tenant, "datasets")
        count = int(self._store.eval(_TAKE_NAME, 1, datasets, dataset.id, most))
        if count >= 0:
            raise OverQuota("data sets", most, count)
        try:
            self.save(tenant, dataset)
        except Exception:
            self._store.zrem(datasets, dataset.id)
            raise
        return dataset

    def save(self, tenant: str, dataset: Dataset) -> None:
        """Writes a data set's record and its file."""
        record = {k: v for k, v in asdict(dataset).items() if k != "labels"}
        manifest = json.dumps(record)
        self._blobs.put(f"{_folder(tenant, dataset.id)}/dataset.json", manifest.encode())
        with self._store.pipeline() as pipe:
            pipe.set(tenant_redis_key(tenant, "dataset", dataset.id), manifest)
            pipe.zadd(tenant_redis_key(tenant, "datasets"), {dataset.id: 0})
            pipe.execute()

    def get(self, tenant: str, dataset_id: str) -> Dataset:
        """A data set and its number of photos per class.

        Raises:
            NotFound: there is none of this id.
        """
        (found,) = self._read_all(tenant, [dataset_id])
        if found is None:
            raise NotFound(f"there is no data set {dataset_id}")
        return found

    def page(self, tenant: str, limit: int, cursor: str | None) -> Page[Dataset]:
        """A page of the tenant's data sets, without those that went while it was read."""
        page = members(self._store, tenant_redis_key(tenant, "datasets"), limit, cursor)
        found = self._read_all(tenant, page.items)
        return Page([dataset for dataset in found if dataset], page.cursor)

    def _read_all(self, tenant: str, ids: list[str]) -> list[Dataset | None]:
        """The data sets by their ids, in one round trip; None for one that is not there."""
        with self._store.pipeline() as pipe:
            for dataset_id in ids:
                pipe.get(tenant_redis_key(tenant, "dataset", dataset_id))
                pipe.hgetall(tenant_redis_key(tenant, "dataset", dataset_id, "labels"))
            answers = pipe.execute()
        found: list[Dataset | None] = []
        for record, labels in zip(answers[::2], answers[1::2], strict=True):
            counts = {label: int(n) for label, n in sorted(labels.items()) if int(n) > 0}
            found.append(Dataset(**json.loads(record), labels=counts) if record else None)
        return found

    def add(self, tenant: str, dataset_id: str, sample: Sample) -> Added:
        """Stores a picture that was found to be good; the same picture again changes nothing.

        Raises:
            OverQuota: of pictures or bytes.
            NotFound: the data set was deleted.
        """
        digest = hashlib.sha256(sample.data).hexdigest()
        images = tenant_redis_key(tenant, "dataset", dataset_id, "images")
        before = self._store.hget(images, digest)
        if before is not None:
            return Added(json.loads(before)["label"], digest, new=False)
        size = len(sample.data)
        place = self.take_place(tenant, size)
        try:
            self.put_file(tenant, dataset_id, sample, digest)
            label, name = sample.label, sample.name
            outcome = self.record(tenant, dataset_id, label, digest, name, size, place)
        except Exception:
            self._run(_GIVE_BACK, tenant, dataset_id, place)
            raise
        if outcome != "new":
            self._run(_GIVE_BACK, tenant, dataset_id, place)
        if outcome == "gone":
            self._blobs.delete_all(_folder(tenant, dataset_id))
            raise NotFound(f"there is no data set {dataset_id}")
        return Added(sample.label, digest, new=outcome == "new")

    def put_file(self, tenant: str, dataset_id: str, sample: Sample, digest: str) -> None:
        """Writes a photo's file."""
        folder = _class_folder(tenant, dataset_id, sample.label)
        self._blobs.put(f"{folder}/label.json", json.dumps({"label": sample.label}).encode())
        self._blobs.put(f"{folder}/{digest}", sample.data)

    def record(
        self,
        tenant: str,
        dataset_id: str,
        label: str,
        digest: str,
        name: str,
        size: int,
        place: str = "",
    ) -> str:
        """`new`, `there` already, or `gone`: the data set. A new one uses its place."""
        record = json.dumps({"label": label, "name": name, "bytes": size})
        outcome: str = self._run(_RECORD, tenant, dataset_id, digest, record, label, size, place)
        return outcome

    def take_place(self, tenant: str, size: int) -> str:
        """Counts a picture before it is stored. Raises OverQuota."""
        limits, place = asdict(self.quota), f"{secrets.token_hex(8)}:{size}"
        most = limits["images"], limits["bytes"]
        refused = self._run(_TAKE, tenant, "", *most, place, RESERVED_SECONDS)
        if refused:
            name, used = refused
            wanted = {"images": 1, "bytes": size}[name]
            raise OverQuota(name, limits[name], int(used), wanted)
        return place

    def remove(self, tenant: str, dataset_id: str, digest: str) -> None:
        """Takes one picture out; also well when it is not there."""
        record = self._run(_REMOVE, tenant, dataset_id, digest)
        if record:
            image = _image(digest, record)
            self._blobs.delete(f"{_class_folder(tenant, dataset_id, image.label)}/{digest}")

    def images(
        self, tenant: str, dataset_id: str, label: str | None, limit: int, cursor: str | None
    ) -> Page[Image]:
        """Some of its pictures, or of one class: about `limit`, as Redis scans them.

        While pictures come and go one may be in two pages, but one that stays is in one at least.
        """
        self.get(tenant, dataset_id)
        name, found, at = (
            tenant_redis_key(tenant, "dataset", dataset_id, "images"),
            [],
            _position(cursor),
        )
        while True:
            at, some = self._store.hscan(name, at, count=limit)
            images = (_image(digest, record) for digest, record in some.items())
            found += [image for image in images if label in (None, image.label)]
            if at == 0 or len(found) >= limit:
                return Page(found, str(at) if at else None)

    def image(self, tenant: str, dataset_id: str, digest: str) -> Image:
        """Raises NotFound."""
        self.get(tenant, dataset_id)
        images = tenant_redis_key(tenant, "dataset", dataset_id, "images")
        record = self._store.hget(images, digest)
        if record is None:
            raise NotFound(f"there is no picture {digest[:64]} in this data set")
        return _image(digest, record)

    def data(self, tenant: str, dataset_id: str, image: Image) -> bytes:
        """A picture as it was sent."""
        return self._blobs.get(f"{_class_folder(tenant, dataset_id, image.label)}/{image.digest}")

    def move(self, tenant: str, dataset_id: str, digest: str, label: str) -> Image:
        """Puts a picture into another class. Raises NotFound.

        Between the first and the last step it lies in both: a restore then takes one of them.
        """
        before = self.image(tenant, dataset_id, digest)
        after = replace(before, label=label)
        if before.label != label:
            sample = Sample(label, before.name, self.data(tenant, dataset_id, before))
            self.put_file(tenant, dataset_id, sample, digest)
            record = json.dumps({"label": label, "name": after.name, "bytes": after.bytes})
            if self._run(_MOVE, tenant, dataset_id, digest, label, record) is None:
                before = after  # deleted meanwhile
            self._blobs.delete(f"{_class_folder(tenant, dataset_id, before.label)}/{digest}")
        return after

    def usage(self, tenant: str) -> Usage:
        """What a tenant has."""
        with self._store.pipeline() as pipe:
            pipe.get(tenant_redis_key(tenant, "images"))
            pipe.get(tenant_redis_key(tenant, "bytes"))
            pipe.zcard(tenant_redis_key(tenant, "datasets"))
            images, size, datasets = pipe.execute()
        return Usage(int(images or 0), int(size or 0), datasets)

    def _run(self, script: str, tenant: str, dataset_id: str, *args: Any) -> Any:
        keys = [tenant_redis_key(tenant, "images"), tenant_redis_key(tenant, "bytes")]
        for parts in ((), ("images",), ("labels",), ("bytes",)):
            keys.append(tenant_redis_key(tenant, "dataset", dataset_id, *parts))
        keys += [tenant_redis_key(tenant, "datasets"), tenant_redis_key(tenant, "places")]
        return self._store.eval(script, len(keys), *keys, *args)

    def samples(self, tenant: str, dataset_id: str) -> Iterator[Sample]:
        """Its pictures, by class and digest, so that the same data set is read the same way."""
        self.get(tenant, dataset_id)
        stored = self._store.hgetall(tenant_redis_key(tenant, "dataset", dataset_id, "images"))
        images = [_image(digest, record) for digest, record in stored.items()]
        for image in sorted(images, key=lambda image: (image.label, image.digest)):
            yield Sample(image.label, image.name, self.data(tenant, dataset_id, image))

    def delete(self, tenant: str, dataset_id: str) -> None:
        """Deletes a data set and its photos.

        Raises:
            NotFound: there is none of this id.
        """
        self.get(tenant, dataset_id)
        self._run(_DELETE, tenant, dataset_id, dataset_id)
        self._blobs.delete(f"{_folder(tenant, dataset_id)}/dataset.json")  # first: see restore
        self._blobs.delete_all(_folder(tenant, dataset_id))

    def restore(self, tenant: str, dataset_id: str) -> Usage:
        """Makes the records of one data set anew from its blobs; returns what it holds."""
        folder = _folder(tenant, dataset_id)
        self.save(
            tenant, Dataset(**json.loads(self._blobs.get(f"{folder}/dataset.json")), labels={})
        )
        self._store.delete(tenant_redis_key(tenant, "dataset", dataset_id, "bytes"))
        seen: dict[str, int] = {}  # one that was being moved lies in two classes
        for path, size in sorted(self._blobs.sizes(f"{folder}/images")):
            place, name = path.rsplit("/", 1)
            if name != "label.json" and name not in seen:
                label = json.loads(self._blobs.get(f"{place}/label.json"))["label"]
                self.record(tenant, dataset_id, label, name, name, size)
                seen[name] = size
        total = sum(seen.values())
        self._store.set(tenant_redis_key(tenant, "dataset", dataset_id, "bytes"), total)
        return Usage(len(seen), total, 1)

    def restore_usage(self, tenant: str, found: list[Usage]) -> None:
        """Counts a tenant anew, from what `restore` found in each of its data sets."""
        with self._store.pipeline() as pipe:
            pipe.set(tenant_redis_key(tenant, "images"), sum(usage.images for usage in found))
            pipe.set(tenant_redis_key(tenant, "bytes"), sum(usage.bytes for usage in found))
            pipe.execute()


def _folder(tenant: str, dataset_id: str) -> str:
    return f"tenants/{tenant}/datasets/{dataset_id}"


def _class_folder(tenant: str, dataset_id: str, label: str) -> str:
    return f"{_folder(tenant, dataset_id)}/images/{_label_hash(label)}"


def _image(digest: str, record: str) -> Image:
    return Image(digest, **json.loads(record))


def _position(cursor: str | None) -> int:
    """Where Redis's scan goes on."""
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > _MAX_CURSOR:
        raise Invalid("the cursor is not one of this list", Problem("cursor", "unknown"))
    return int(cursor)


def _label_hash(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:16]
