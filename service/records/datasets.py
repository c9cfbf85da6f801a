"""Data sets: labelled pictures of a tenant.

The object store holds everything, so that Redis can be rebuilt from it:

tenants/T/datasets/D/dataset.json                       its name and tags
tenants/T/datasets/D/images/SHA256/FILE                 a picture as it was sent
tenants/T/datasets/D/images/SHA256/FILE.REVISION.json   its label and its file's name
tenants/T/datasets/D/features/KEY/FILE                  its frozen feature (`features`)

FILE is new for each upload and REVISION for each move; the latest one counts. Earlier releases put
a picture into a folder per class, images/LABEL/SHA256 beside images/LABEL/label.json, where LABEL
is a hash. Such a picture is read there, and moves to the layout above with its next change.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from service.errors import Conflict, Invalid, NotFound, OverQuota, Problem
from service.records.blobs import Blobs
from service.records.deletion import GRACE_SECONDS, Deletion, Pending, refuse_late
from service.records.features import features_folder
from service.records.store import Page, RecordStore, members, new_id, now, tenant_redis_key
from training.data import Sample

_MAX_CURSOR = 19  # digits of 64 bits
RESERVED_SECONDS = GRACE_SECONDS  # then a place taken for a picture, but not used, is free again
_TRIES = 20  # attempts to change a picture while others change it too
_RESTORED_AT_ONCE = 500  # pictures of one step

# Each script is one step for Redis, so a tenant's counts always agree with what is stored. It may
# be repeated, as the client does if the connection breaks before the answer. KEYS: 1 and 2, a
# tenant's count of pictures and of bytes; 3, one data set's record; 4, 5 and 6, its pictures,
# labels and bytes; 7, the tenant's list of data sets; 8, its places for pictures that are not
# recorded yet, TOKEN:BYTES by the second at which they lapse; 9, the files of the data set's
# pictures, "FILE REVISION"; 10, its uploads that are not confirmed yet; 11, the KEYs of its kept
# features.
_CREATE = """
local id, record, most, path = unpack(ARGV)
if redis.call('exists', KEYS[3]) == 1 then return -1 end
local count = redis.call('zcard', KEYS[7])
if count >= tonumber(most) then drop(path); return count end
if not named(path) then return -2 end
redis.call('set', KEYS[3], record)
if cjson.decode(record).tags then account(KEYS[3], #record) end
redis.call('zadd', KEYS[7], 0, id)
return -1
"""
_TAKE = """
local function free(place)
  redis.call('zrem', KEYS[8], place)
  redis.call('decr', KEYS[1])
  redis.call('decrby', KEYS[2], string.match(place, ':(%d+)$'))
end
local clock, size = tonumber(redis.call('time')[1]), string.match(ARGV[3], ':(%d+)$')
for _, place in ipairs(redis.call('zrangebyscore', KEYS[8], 0, clock)) do free(place) end
if redis.call('exists', KEYS[3]) == 0 then return {'gone', 0} end
if redis.call('zscore', KEYS[8], ARGV[3]) then return {} end
local images = tonumber(redis.call('get', KEYS[1]) or 0)
local bytes = tonumber(redis.call('get', KEYS[2]) or 0)
if accounted() >= tonumber(ARGV[5]) then return {'record bytes', accounted()} end
if images + 1 > tonumber(ARGV[1]) then return {'images', images} end
if bytes + size > tonumber(ARGV[2]) then return {'bytes', bytes} end
redis.call('zadd', KEYS[8], clock + ARGV[4], ARGV[3])
redis.call('incr', KEYS[1])
redis.call('incrby', KEYS[2], size)
return {}
"""
_GIVE_BACK = """
if redis.call('zrem', KEYS[8], ARGV[1]) == 1 then
  redis.call('decr', KEYS[1])
  redis.call('decrby', KEYS[2], string.match(ARGV[1], ':(%d+)$'))
end
for i = 2, #ARGV do
  if redis.call('zscore', unnamed, ARGV[i]) then drop(ARGV[i]) end
end
"""
# The record of a picture that is there. If another upload is told of it, the picture stays even if
# its own upload fails and is undone.
_FIND = """
local record = redis.call('hget', KEYS[4], ARGV[1])
if record and redis.call('hget', KEYS[10], ARGV[1]) ~= ARGV[2] then
  redis.call('hdel', KEYS[10], ARGV[1])
end
return record
"""
_RECORD = """
local digest, record, label, size, place, files, upload, picture, about = unpack(ARGV)
if redis.call('exists', KEYS[3]) == 0 then return 'gone' end
if redis.call('hexists', KEYS[4], digest) == 1 then
  if redis.call('hget', KEYS[9], digest) == files then return 'new' end
  if redis.call('hget', KEYS[10], digest) ~= upload then redis.call('hdel', KEYS[10], digest) end
  return 'there'
end
for _, path in ipairs({picture, about}) do
  if not redis.call('zscore', unnamed, path) then drop(picture); drop(about); return 'late' end
end
named(picture)
named(about)
redis.call('hset', KEYS[4], digest, record)
account(KEYS[3], #record)
redis.call('hset', KEYS[9], digest, files)
if upload ~= '' then redis.call('hset', KEYS[10], digest, upload) end
redis.call('hincrby', KEYS[5], label, 1)
redis.call('incrby', KEYS[6], size)
if redis.call('zrem', KEYS[8], place) == 0 then
  redis.call('incr', KEYS[1])
  redis.call('incrby', KEYS[2], size)
end
return 'new'
"""
_CONFIRM = """
for i = 2, #ARGV do
  if redis.call('hget', KEYS[10], ARGV[i]) == ARGV[1] then redis.call('hdel', KEYS[10], ARGV[i]) end
end
"""
_REMOVE = """
local digest, expected, files, upload, features = unpack(ARGV)
local record = redis.call('hget', KEYS[4], digest)
if not record then return {'gone'} end
if record ~= expected or (redis.call('hget', KEYS[9], digest) or '') ~= files then
  return {'changed'}
end
if upload ~= '' and redis.call('hget', KEYS[10], digest) ~= upload then return {'kept'} end
local image = cjson.decode(record)
for _, key in ipairs({KEYS[4], KEYS[9], KEYS[10]}) do redis.call('hdel', key, digest) end
if redis.call('hincrby', KEYS[5], image.label, -1) <= 0 then
  redis.call('hdel', KEYS[5], image.label)
end
account(KEYS[3], -#record)
redis.call('decrby', KEYS[6], image.bytes)
redis.call('decr', KEYS[1])
redis.call('decrby', KEYS[2], image.bytes)
local dropped = {'removed', unpack(ARGV, 6)}
local file = string.match(files, '^%S+')
for _, key in ipairs(file and redis.call('smembers', KEYS[11]) or {}) do
  local path = features .. '/' .. key .. '/' .. file
  if not redis.call('zscore', unnamed, path) then dropped[#dropped + 1] = path end
end
for i = 2, #dropped do drop(dropped[i]) end
return dropped
"""
_MOVE = """
local digest, expected, files, moved, moved_files, label, count = unpack(ARGV, 1, 7)
local record = redis.call('hget', KEYS[4], digest)
if not record then return 'gone' end
local present = redis.call('hget', KEYS[9], digest) or ''
if present == moved_files then return 'moved' end
if record ~= expected or present ~= files then return 'changed' end
for i = 8, 7 + count do
  if not redis.call('zscore', unnamed, ARGV[i]) then
    for j = 8, 7 + count do drop(ARGV[j]) end
    return 'late'
  end
end
for i = 8, 7 + count do named(ARGV[i]) end
local before = cjson.decode(record).label
if redis.call('hincrby', KEYS[5], before, -1) <= 0 then redis.call('hdel', KEYS[5], before) end
redis.call('hincrby', KEYS[5], label, 1)
redis.call('hset', KEYS[4], digest, moved)
account(KEYS[3], #moved - #record)
redis.call('hset', KEYS[9], digest, moved_files)
redis.call('hdel', KEYS[10], digest)
for i = 8 + count, #ARGV do drop(ARGV[i]) end
return 'moved'
"""
_DELETE = """
if redis.call('del', KEYS[3]) == 0 then return 0 end
redis.call('decrby', KEYS[1], redis.call('hlen', KEYS[4]))
redis.call('decrby', KEYS[2], redis.call('get', KEYS[6]) or 0)
redis.call('del', KEYS[4], KEYS[5], KEYS[6], KEYS[9], KEYS[10], KEYS[11])
redis.call('zrem', KEYS[7], ARGV[1])
unaccount(KEYS[3])
drop(ARGV[2])
return 1
"""
_RESTORE = """
redis.call('set', KEYS[3], ARGV[1])
redis.call('zadd', KEYS[7], 0, ARGV[2])
unaccount(KEYS[3])
if cjson.decode(ARGV[1]).tags then account(KEYS[3], #ARGV[1]) end
redis.call('del', KEYS[4], KEYS[5], KEYS[6], KEYS[9], KEYS[10], KEYS[11])
for i = 3, #ARGV do redis.call('sadd', KEYS[11], ARGV[i]) end
"""
_RESTORE_IMAGES = """
for i = 1, #ARGV, 3 do
  local image = cjson.decode(ARGV[i + 1])
  redis.call('hset', KEYS[4], ARGV[i], ARGV[i + 1])
  account(KEYS[3], #ARGV[i + 1])
  if ARGV[i + 2] ~= '' then redis.call('hset', KEYS[9], ARGV[i], ARGV[i + 2]) end
  redis.call('hincrby', KEYS[5], image.label, 1)
  redis.call('incrby', KEYS[6], image.bytes)
end
"""
_RESTORE_USAGE = """
redis.call('set', KEYS[1], ARGV[1])
redis.call('set', KEYS[2], ARGV[2])
redis.call('del', KEYS[8])
"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`labels`: pictures by class; `tags`: ids that a tool gave to classes, by class."""

    id: str
    name: str
    created_at: str
    labels: dict[str, int]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has stored, or may store."""

    images: int
    bytes: int
    datasets: int


@dataclass(frozen=True, slots=True)
class Added:
    """Where a picture is now: in the requested class, or in the class that it was in before."""

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


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture and where it lies."""

    image: Image
    path: str
    file: str  # FILE; "" for one that lies where an earlier release put it


@dataclass(frozen=True, slots=True)
class _Stored:
    """A picture's record as Redis has it: its text, and its files, "FILE REVISION" or nothing."""

    record: str
    files: str

    def paths(self, folder: str, digest: str) -> tuple[str, ...]:
        """The paths of its file and of its label's file, in a data set's folder."""
        if self.files:
            file, revision = self.files.split()
            return _paths(folder, digest, file, revision)
        return (f"{folder}/images/{_label_hash(json.loads(self.record)['label'])}/{digest}",)


class Datasets:
    """Makes, fills, reads and deletes data sets, and counts what each tenant has."""

    def __init__(
        self,
        store: RecordStore,
        blobs: Blobs,
        deletion: Deletion,
        quota: Usage,
        max_record_bytes: int,
    ) -> None:
        self._store, self._blobs, self._deletion, self.quota = store, blobs, deletion, quota
        self._max_record_bytes = max_record_bytes

    def create(
        self, tenant: str, name: str, tags: Mapping[str, str] = MappingProxyType({})
    ) -> Dataset:
        """Makes an empty data set.

        Args:
            tenant: whose it is.
            name: for people.
            tags: the ids of classes in the tool that the photos come from.

        Returns:
            The data set, with its new id.

        Raises:
            OverQuota: the tenant has as many as allowed.
        """
        dataset = Dataset(new_id("dataset"), name, now(), {}, dict(tags))
        most = self.quota.datasets
        count = self._store.zcard(tenant_redis_key(tenant, "datasets"))
        if count >= most:
            raise OverQuota("data sets", most, count)
        manifest, path = _manifest(dataset), f"{_folder(tenant, dataset.id)}/dataset.json"
        self._deletion.intend(tenant, path)
        self._blobs.put(path, manifest.encode())
        count = self._run(_CREATE, tenant, dataset.id, dataset.id, manifest, most, path)
        if count >= 0:
            self._deletion.discard([path])
            raise OverQuota("data sets", most, count)
        refuse_late(count == -2)
        return dataset

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
        """A page of the tenant's data sets, without those deleted while it was read."""
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

    def add(self, tenant: str, dataset_id: str, sample: Sample, upload: str = "") -> Added:
        """Stores a picture that could be decoded. The same picture again changes nothing.

        Args:
            tenant: whose data set it is.
            dataset_id: the data set.
            sample: the picture, its label and its file's name.
            upload: an id of the upload that may still be undone, by `undo`, until `confirm`.

        Returns:
            Where the picture is now.

        Raises:
            OverQuota: of pictures, their bytes, or bytes of records.
            NotFound: the data set was deleted.
        """
        digest = hashlib.sha256(sample.data).hexdigest()
        before = self._run(_FIND, tenant, dataset_id, digest, upload)
        if before is not None:
            return Added(json.loads(before)["label"], digest, new=False)
        place = self.take_place(tenant, dataset_id, len(sample.data))
        paths: tuple[str, ...] = ()
        try:
            file = secrets.token_hex(8)
            folder = _folder(tenant, dataset_id)
            paths = self._deletion.intend(tenant, *_paths(folder, digest, file, "REVISION"))
            self.put_files(paths, sample)
            outcome = self._record(tenant, dataset_id, digest, sample, place, upload, paths)
        except BaseException:
            self._give_back(tenant, dataset_id, place, paths)
            raise
        if outcome == "new":
            return Added(sample.label, digest, new=True)
        self._give_back(tenant, dataset_id, place, paths)
        if outcome == "there":
            return self.add(tenant, dataset_id, sample, upload)
        refuse_late(outcome == "late")
        raise NotFound(f"there is no data set {dataset_id}")

    def put_files(self, paths: Sequence[str], sample: Sample) -> None:
        """Writes a picture's file, then the file with its label."""
        self._blobs.put(paths[0], sample.data)
        self._blobs.put(paths[1], _about(sample.label, sample.name))

    def _record(
        self,
        tenant: str,
        dataset_id: str,
        digest: str,
        sample: Sample,
        place: str,
        upload: str,
        paths: Sequence[str],
    ) -> str:
        """`new`, `there` (already), `gone` (the data set) or `late` (the files were deleted)."""
        size = len(sample.data)
        record = _image_record(sample.label, sample.name, size)
        files = _files_in(paths)
        about = (digest, record, sample.label, size, place, files, upload)
        outcome: str = self._run(_RECORD, tenant, dataset_id, *about, *paths)
        return outcome

    def _give_back(self, tenant: str, dataset_id: str, place: str, paths: Sequence[str]) -> None:
        """Frees the place of a picture that is not recorded, and deletes its files."""
        self._run(_GIVE_BACK, tenant, dataset_id, place, *paths, frees=True)
        self._deletion.discard(paths)

    def confirm(self, tenant: str, dataset_id: str, upload: str, digests: Sequence[str]) -> None:
        """Ends an upload that succeeded: its pictures stay."""
        if digests:
            self._run(_CONFIRM, tenant, dataset_id, upload, *digests, frees=True)

    def undo(self, tenant: str, dataset_id: str, upload: str, digests: Sequence[str]) -> None:
        """Ends an upload that failed: removes the pictures that no other upload was told of."""
        for digest in digests:
            self.remove(tenant, dataset_id, digest, upload)

    def take_place(self, tenant: str, dataset_id: str, size: int) -> str:
        """Counts a picture before it is stored.

        Raises:
            OverQuota: of pictures, their bytes, or bytes of records.
            NotFound: the data set was deleted.
        """
        limits, place = asdict(self.quota), f"{secrets.token_hex(8)}:{size}"
        most = limits["images"], limits["bytes"]
        what = (place, RESERVED_SECONDS, self._max_record_bytes)
        refused = self._run(_TAKE, tenant, dataset_id, *most, *what)
        if refused:
            name, used = refused
            if name == "gone":
                raise NotFound(f"there is no data set {dataset_id}")
            if name == "record bytes":
                raise OverQuota(name, self._max_record_bytes, int(used))
            wanted = {"images": 1, "bytes": size}[name]
            raise OverQuota(name, limits[name], int(used), wanted)
        return place

    def remove(self, tenant: str, dataset_id: str, digest: str, upload: str = "") -> None:
        """Removes one picture if it is there.

        Args:
            tenant: whose data set it is.
            dataset_id: the data set.
            digest: the picture's SHA-256.
            upload: remove it only if it is of this upload and not confirmed.
        """
        for _ in range(_TRIES):
            stored = self._stored(tenant, dataset_id, digest)
            if stored is None:
                return
            paths = stored.paths(_folder(tenant, dataset_id), digest)
            features = features_folder(tenant, dataset_id)
            expected = (digest, stored.record, stored.files, upload, features)
            outcome, *dropped = self._run(
                _REMOVE, tenant, dataset_id, *expected, *paths, frees=True
            )
            self._deletion.discard(dropped)
            if outcome != "changed":
                return
        raise Conflict("others change this picture at the same time")

    def images(
        self, tenant: str, dataset_id: str, label: str | None, limit: int, cursor: str | None
    ) -> Page[Image]:
        """A page of its pictures, or of one class: about `limit`, in the order of Redis's scan.

        While others are added and deleted, a picture may be in two pages, but never in none.
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
        return _image(digest, self._known(tenant, dataset_id, digest).record)

    def _known(self, tenant: str, dataset_id: str, digest: str) -> _Stored:
        """Raises NotFound."""
        stored = self._stored(tenant, dataset_id, digest)
        if stored is None:
            raise NotFound(f"there is no picture {digest[:64]} in this data set")
        return stored

    def _stored(self, tenant: str, dataset_id: str, digest: str) -> _Stored | None:
        with self._store.pipeline() as pipe:
            pipe.hget(tenant_redis_key(tenant, "dataset", dataset_id, "images"), digest)
            pipe.hget(tenant_redis_key(tenant, "dataset", dataset_id, "files"), digest)
            record, files = pipe.execute()
        return _Stored(record, files or "") if record else None

    def path(self, tenant: str, dataset_id: str, digest: str) -> str:
        """The path of a picture's file. Raises NotFound."""
        stored = self._known(tenant, dataset_id, digest)
        return stored.paths(_folder(tenant, dataset_id), digest)[0]

    def data(self, tenant: str, dataset_id: str, digest: str) -> bytes:
        """A picture as it was sent.

        Raises:
            NotFound: it was deleted.
        """
        for _ in range(_TRIES):
            stored = self._known(tenant, dataset_id, digest)
            try:
                return self._blobs.get(stored.paths(_folder(tenant, dataset_id), digest)[0])
            except NotFound:
                if self._stored(tenant, dataset_id, digest) == stored:
                    raise
        raise Conflict("others change this picture at the same time")

    def files(self, tenant: str, dataset_id: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each picture's digest and the paths that its record names, the picture's own first."""
        folder = _folder(tenant, dataset_id)
        for digest, stored in self._all(tenant, dataset_id).items():
            paths = stored.paths(folder, digest)
            if not stored.files:  # an earlier release's, beside its label's file
                paths = (*paths, paths[0].rsplit("/", 1)[0] + "/label.json")
            yield digest, paths

    def _all(self, tenant: str, dataset_id: str) -> dict[str, _Stored]:
        """Every picture's record by its digest, in one round trip."""
        with self._store.pipeline() as pipe:
            pipe.hgetall(tenant_redis_key(tenant, "dataset", dataset_id, "images"))
            pipe.hgetall(tenant_redis_key(tenant, "dataset", dataset_id, "files"))
            records, files = pipe.execute()
        return {digest: _Stored(text, files.get(digest, "")) for digest, text in records.items()}

    def move(self, tenant: str, dataset_id: str, digest: str, label: str) -> Image:
        """Moves a picture to another class.

        Raises:
            NotFound: it is not there.
        """
        self.get(tenant, dataset_id)
        for _ in range(_TRIES):
            stored = self._known(tenant, dataset_id, digest)
            before = _image(digest, stored.record)
            if before.label == label:
                return before
            if self._moved(tenant, dataset_id, digest, stored, label):
                return replace(before, label=label)
        raise Conflict("others change this picture at the same time")

    def _moved(
        self, tenant: str, dataset_id: str, digest: str, stored: _Stored, label: str
    ) -> bool:
        """Whether the picture was moved; False if it was changed or deleted meanwhile."""
        image = _image(digest, stored.record)
        folder = _folder(tenant, dataset_id)
        old, file = stored.paths(folder, digest), stored.files.partition(" ")[0]
        wanted = _paths(folder, digest, file or secrets.token_hex(8), "REVISION")
        kept = 1 if file else 0  # an earlier release's picture is copied too
        new, dropped = self._deletion.intend(tenant, *wanted[kept:]), old[kept:]
        try:
            if not file:
                self._blobs.put(new[0], self._blobs.get(old[0]))
            self._blobs.put(new[-1], _about(label, image.name))
            moved = _image_record(label, image.name, image.bytes)
            change = (digest, stored.record, stored.files, moved, _files_in(new), label)
            outcome = self._run(_MOVE, tenant, dataset_id, *change, len(new), *new, *dropped)
        except BaseException:
            self._give_back(tenant, dataset_id, "", new)
            raise
        if outcome == "moved":
            self._deletion.discard(dropped)
            return True
        self._give_back(tenant, dataset_id, "", new)
        refuse_late(outcome == "late")
        return False

    def _run(
        self, script: str, tenant: str, dataset_id: str, *args: Any, frees: bool = False
    ) -> Any:
        keys = [tenant_redis_key(tenant, "images"), tenant_redis_key(tenant, "bytes")]
        for parts in ((), ("images",), ("labels",), ("bytes",)):
            keys.append(tenant_redis_key(tenant, "dataset", dataset_id, *parts))
        keys += [tenant_redis_key(tenant, "datasets"), tenant_redis_key(tenant, "places")]
        for part in ("files", "uploads", "features"):
            keys.append(tenant_redis_key(tenant, "dataset", dataset_id, part))
        return self._store.tenant_step(tenant, script, keys, *args, frees=frees)

    def listing(self, tenant: str, dataset_id: str) -> list[Listed]:
        """Its pictures in the order of class and digest, which is always the same.

        Raises:
            NotFound: there is no such data set.
        """
        self.get(tenant, dataset_id)
        folder, listed = _folder(tenant, dataset_id), []
        for digest, stored in self._all(tenant, dataset_id).items():
            path = stored.paths(folder, digest)[0]
            listed.append(
                Listed(_image(digest, stored.record), path, stored.files.partition(" ")[0])
            )
        return sorted(listed, key=lambda one: (one.image.label, one.image.digest))

    def read(self, tenant: str, dataset_id: str, listed: Listed) -> bytes:
        """A picture of the listing as it was sent.

        Raises:
            NotFound: it was deleted since.
        """
        try:
            return self._blobs.get(listed.path)
        except NotFound:  # deleted, or moved by what copied it
            return self.data(tenant, dataset_id, listed.image.digest)

    def samples(self, tenant: str, dataset_id: str) -> Iterator[Sample]:
        """Its pictures in the listing's order. One that is deleted meanwhile is left out."""
        for listed in self.listing(tenant, dataset_id):
            try:
                data = self.read(tenant, dataset_id, listed)
            except NotFound:
                continue
            yield Sample(listed.image.label, listed.image.name, data)

    def delete(self, tenant: str, dataset_id: str) -> None:
        """Deletes a data set and its photos.

        Raises:
            NotFound: there is none of this id.
        """
        folder = f"{_folder(tenant, dataset_id)}/"
        if not self._run(_DELETE, tenant, dataset_id, dataset_id, folder, frees=True):
            raise NotFound(f"there is no data set {dataset_id}")
        self._deletion.discard([folder])

    def restore(self, tenant: str, dataset_id: str, pending: Pending) -> Usage:
        """Makes the records of one data set anew from its files.

        Args:
            tenant: whose data set it is.
            dataset_id: the data set.
            pending: files that are to be deleted; they are left out.

        Returns:
            What it holds.

        Raises:
            Invalid: its file names another data set.
        """
        folder = _folder(tenant, dataset_id)
        manifest = json.loads(self._blobs.get(f"{folder}/dataset.json"))
        if manifest.get("id") != dataset_id:
            raise Invalid(f"it says that it is {manifest.get('id')!r}")
        found = list(self._found(folder, pending))
        keys = self._restore_features(tenant, dataset_id, [files for _, files in found])
        self._run(_RESTORE, tenant, dataset_id, json.dumps(manifest), dataset_id, *keys)
        for start in range(0, len(found), _RESTORED_AT_ONCE):
            part = found[start : start + _RESTORED_AT_ONCE]
            flat = [value for image, files in part for value in (image.digest, _text(image), files)]
            self._run(_RESTORE_IMAGES, tenant, dataset_id, *flat)
        return Usage(len(found), sum(image.bytes for image, _ in found), 1)

    def _restore_features(self, tenant: str, dataset_id: str, files: list[str]) -> set[str]:
        """The KEYs of kept features; those of photos that are not there are to be deleted."""
        there = {file.partition(" ")[0] for file in files}
        paths = [
            path.rsplit("/", 2) for path in self._blobs.paths(features_folder(tenant, dataset_id))
        ]
        self._deletion.note(*("/".join(path) for path in paths if path[2] not in there))
        return {path[1] for path in paths}

    def _found(self, folder: str, pending: Pending) -> Iterator[tuple[Image, str]]:
        """The pictures in a data set's folder, each once, with its files."""
        sizes = {p: s for p, s in self._blobs.sizes(f"{folder}/images") if not pending.covers(p)}
        newest: dict[str, tuple[str, str]] = {}  # digest → revision, path of its label
        for path in sizes:
            digest, _, name = path.removeprefix(f"{folder}/images/").partition("/")
            file, _, revision = name.removesuffix(".json").partition(".")
            if revision and f"{folder}/images/{digest}/{file}" in sizes:
                newest[digest] = max(newest.get(digest, ("", "")), (revision, path))
        for digest, (revision, path) in sorted(newest.items()):
            about = json.loads(self._blobs.get(path))
            file = path.rsplit("/", 1)[1].partition(".")[0]
            size = sizes[f"{folder}/images/{digest}/{file}"]
            yield Image(digest, about["label"], about["name"], size), f"{file} {revision}"
        for path, size in sorted(sizes.items()):  # an earlier release's
            place, name = path.rsplit("/", 1)
            earlier = len(place.rsplit("/", 1)[1]) == _LABEL_DIGITS and name != "label.json"
            if earlier and name not in newest:
                newest[name] = ("", path)  # one that was being moved lay in two classes
                label = json.loads(self._blobs.get(f"{place}/label.json"))["label"]
                yield Image(name, label, name, size), ""

    def restore_usage(self, tenant: str, found: list[Usage]) -> None:
        """Sets a tenant's counts to what `restore` found in each of its data sets."""
        images, size = sum(u.images for u in found), sum(u.bytes for u in found)
        self._run(_RESTORE_USAGE, tenant, "", images, size)


_LABEL_DIGITS = 16


def _manifest(dataset: Dataset) -> str:
    """Without tags where there are none: earlier releases read such a one too."""
    plain = {name: value for name, value in asdict(dataset).items() if name != "labels"}
    return json.dumps({name: value for name, value in plain.items() if name != "tags" or value})


def _folder(tenant: str, dataset_id: str) -> str:
    return f"tenants/{tenant}/datasets/{dataset_id}"


def _paths(folder: str, digest: str, file: str, revision: str) -> tuple[str, str]:
    place = f"{folder}/images/{digest}/{file}"
    return place, f"{place}.{revision}.json"


def _files_in(paths: Sequence[str]) -> str:
    """A picture's files as its record holds them, "FILE REVISION", from their paths."""
    file, revision, _ = paths[-1].rsplit("/", 1)[1].split(".")
    return f"{file} {revision}"


def _about(label: str, name: str) -> bytes:
    return json.dumps({"label": label, "name": name}).encode()


def _image_record(label: str, name: str, size: int) -> str:
    return json.dumps({"label": label, "name": name, "bytes": size})


def _text(image: Image) -> str:
    return _image_record(image.label, image.name, image.bytes)


def _image(digest: str, record: str) -> Image:
    return Image(digest, **json.loads(record))


def _position(cursor: str | None) -> int:
    """Where Redis's scan continues."""
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > _MAX_CURSOR:
        raise Invalid("the cursor is not one of this list", Problem("cursor", "unknown"))
    return int(cursor)


def _label_hash(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:_LABEL_DIGITS]
