"""Data sets: labelled pictures of a tenant. The blobs alone say all but the file names:

tenants/T/datasets/D/dataset.json               its name
tenants/T/datasets/D/images/LABEL/label.json    a class (LABEL is a hash, for any name is allowed)
tenants/T/datasets/D/images/LABEL/SHA256        a picture as it was sent
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from service.blobs import Blobs
from service.errors import NotFound, TooMany
from service.registry.store import Page, Store, members, new_id, now, tenant_key
from training.data import Sample

_QUOTA_RETRY = 3600  # seconds: a quota frees itself by hand only
# One step for Redis, so that no crash counts a picture that is not there, or the other way about.
_ADD = """
local images, labels, used = unpack(KEYS)
local digest, record, label, most = unpack(ARGV)
local before = redis.call('hget', images, digest)
if before then return before end
if tonumber(redis.call('get', used) or '0') >= tonumber(most) then return false end
redis.call('hset', images, digest, record)
redis.call('hincrby', labels, label, 1)
redis.call('incr', used)
return record
"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`labels`: pictures by class."""

    id: str
    name: str
    created_at: str
    labels: dict[str, int]


class Datasets:
    """Makes, fills, reads and deletes data sets."""

    def __init__(self, store: Store, blobs: Blobs, max_images: int) -> None:
        self._store, self._blobs, self._max_images = store, blobs, max_images

    def create(self, tenant: str, name: str) -> Dataset:
        dataset = Dataset(new_id("dataset"), name, now(), {})
        self.save(tenant, dataset)
        return dataset

    def save(self, tenant: str, dataset: Dataset) -> None:
        record = {k: v for k, v in asdict(dataset).items() if k != "labels"}
        manifest = json.dumps(record)
        self._blobs.put(f"{_folder(tenant, dataset.id)}/dataset.json", manifest.encode())
        with self._store.pipeline() as pipe:
            pipe.set(tenant_key(tenant, "dataset", dataset.id), manifest)
            pipe.zadd(tenant_key(tenant, "datasets"), {dataset.id: 0})
            pipe.execute()

    def get(self, tenant: str, dataset_id: str) -> Dataset:
        with self._store.pipeline() as pipe:
            pipe.get(tenant_key(tenant, "dataset", dataset_id))
            pipe.hgetall(tenant_key(tenant, "dataset", dataset_id, "labels"))
            record, labels = pipe.execute()
        if record is None:
            raise NotFound(f"there is no data set {dataset_id}")
        counts = {label: int(n) for label, n in sorted(labels.items()) if int(n) > 0}
        return Dataset(**json.loads(record), labels=counts)

    def page(self, tenant: str, limit: int, cursor: str | None) -> Page[Dataset]:
        page = members(self._store, tenant_key(tenant, "datasets"), limit, cursor)
        return Page([self.get(tenant, dataset_id) for dataset_id in page.items], page.cursor)

    def add(self, tenant: str, dataset_id: str, sample: Sample) -> str | None:
        """Stores a picture that was found to be good; the same picture again changes nothing.

        Returns:
            None, or the class that holds this very picture already, if it is another one.

        Raises:
            TooMany: the tenant's quota of pictures is used up.
        """
        digest = hashlib.sha256(sample.data).hexdigest()
        images = tenant_key(tenant, "dataset", dataset_id, "images")
        before = self._store.hget(images, digest)
        if before is not None:
            return _other_than(sample.label, before)
        self._check_quota(tenant)
        folder = f"{_folder(tenant, dataset_id)}/images/{_label_hash(sample.label)}"
        self._blobs.put(f"{folder}/label.json", json.dumps({"label": sample.label}).encode())
        self._blobs.put(f"{folder}/{digest}", sample.data)
        recorded = self._record(tenant, dataset_id, sample.label, digest, sample.name)
        return _other_than(sample.label, recorded)

    def _record(self, tenant: str, dataset_id: str, label: str, digest: str, name: str) -> str:
        """The picture's record: this one, or an earlier one."""
        record = json.dumps({"label": label, "name": name})
        images, labels = (
            tenant_key(tenant, "dataset", dataset_id, part) for part in ("images", "labels")
        )
        names = (images, labels, tenant_key(tenant, "images"))
        stored = self._store.eval(_ADD, 3, *names, digest, record, label, self._max_images)
        if stored is None:
            raise self._quota_is_used()
        return str(stored)

    def _check_quota(self, tenant: str) -> None:
        """Before the bytes are stored; the record's own check is the exact one."""
        if int(self._store.get(tenant_key(tenant, "images")) or 0) >= self._max_images:
            raise self._quota_is_used()

    def _quota_is_used(self) -> TooMany:
        return TooMany(f"the tenant has {self._max_images:,} images, its quota", _QUOTA_RETRY)

    def samples(self, tenant: str, dataset_id: str) -> Iterator[Sample]:
        """Its pictures, by class and digest, so that the same data set is read the same way."""
        self.get(tenant, dataset_id)
        stored = self._store.hgetall(tenant_key(tenant, "dataset", dataset_id, "images"))
        images = [(json.loads(record), digest) for digest, record in stored.items()]
        for image, digest in sorted(images, key=lambda pair: (pair[0]["label"], pair[1])):
            label, name = image["label"], image["name"]
            folder = f"{_folder(tenant, dataset_id)}/images/{_label_hash(label)}"
            yield Sample(label, name, self._blobs.get(f"{folder}/{digest}"))

    def delete(self, tenant: str, dataset_id: str) -> None:
        count = sum(self.get(tenant, dataset_id).labels.values())
        with self._store.pipeline() as pipe:
            pipe.zrem(tenant_key(tenant, "datasets"), dataset_id)
            pipe.decrby(tenant_key(tenant, "images"), count)
            for parts in ((), ("images",), ("labels",)):
                pipe.delete(tenant_key(tenant, "dataset", dataset_id, *parts))
            pipe.execute()
        self._blobs.delete(f"{_folder(tenant, dataset_id)}/dataset.json")  # first: see restore
        self._blobs.delete_all(_folder(tenant, dataset_id))

    def restore(self, tenant: str, dataset_id: str) -> None:
        """Makes the records of one data set anew from its blobs."""
        folder = _folder(tenant, dataset_id)
        self.save(
            tenant, Dataset(**json.loads(self._blobs.get(f"{folder}/dataset.json")), labels={})
        )
        for path in sorted(self._blobs.paths(f"{folder}/images")):
            place, name = path.rsplit("/", 1)
            if name != "label.json":
                label = json.loads(self._blobs.get(f"{place}/label.json"))["label"]
                self._record(tenant, dataset_id, label, name, name)


def _folder(tenant: str, dataset_id: str) -> str:
    return f"tenants/{tenant}/datasets/{dataset_id}"


def _other_than(label: str, record: str) -> str | None:
    """The label of a record, if it is another one."""
    recorded: str = json.loads(record)["label"]
    return None if recorded == label else recorded


def _label_hash(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:16]
