"""Frozen features of a data set's photos, kept so that the next fit need not compute them.

tenants/T/datasets/D/features/KEY/FILE   the feature of the photo whose file is FILE

KEY says by which CLIP, precision and preprocessing (`training.photos.features_key`). There is a
small file per photo, not one per data set: a photo's feature goes when the photo goes, two jobs can
keep features at once without losing each other's, and none of them reads or rewrites the others'.
The price is a request to the object store per photo, as for the photo itself; they are made in
parallel.

The path of such a file is used again by the next job. So, unlike a photo, it is not recorded by
itself: it counts as recorded while its photo is, and a data set's record has the KEYs that were
used. What deletes a photo drops the photo's file under each of them. If a job has noted that file
at that moment, it may still write it; then the note stays, and the file goes when the note is due.
If such a file is missing or damaged, the feature is computed again. A backup leaves them out.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.errors import NotFound
from service.records.blobs import Blobs
from service.records.deletion import Deletion
from service.records.store import RecordStore, tenant_redis_key

_THREADS = 16  # requests to the object store at once
_AT_ONCE = 500  # files that are noted, written and recorded together: seconds, not minutes

# KEYS: of the data set 1 its record, 2 the photos' files, 3 the KEYs. A photo that has gone, or was
# uploaded anew, has no place for the file: it is deleted.
_KEEP = """
local key = ARGV[1]
local there = redis.call('exists', KEYS[1]) == 1
if there then redis.call('sadd', KEYS[3], key) end
local gone = {}
for i = 2, #ARGV, 3 do
  local digest, file, path = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local files = there and redis.call('hget', KEYS[2], digest) or ''
  if string.match(files, '^%S+') == file then
    named(path)
  else
    drop(path)
    gone[#gone + 1] = path
  end
end
return gone
"""


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo's SHA-256 and the name of its file, which is empty for one of an earlier release."""

    digest: str
    file: str


class FeatureFiles:
    """Reads and writes the features of data sets."""

    def __init__(self, store: RecordStore, blobs: Blobs, deletion: Deletion) -> None:
        self._store, self._blobs, self._deletion = store, blobs, deletion

    def read(
        self, tenant: str, dataset: str, key: str, photos: Iterable[PhotoFile]
    ) -> dict[str, bytes]:
        """The files that are there, by the photo's SHA-256.

        Raises:
            Unavailable: a store is away.
        """
        if not self._store.sismember(_keys(tenant, dataset)[2], key):
            return {}

        def one(photo: PhotoFile) -> tuple[str, bytes] | None:
            try:
                return photo.digest, self._blobs.get(feature_path(tenant, dataset, key, photo.file))
            except NotFound:
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(one, [photo for photo in photos if photo.file])
            return dict(filter(None, found))

    def keep(
        self, tenant: str, dataset: str, key: str, features: Mapping[PhotoFile, bytes]
    ) -> None:
        """Stores features; those of photos that were deleted meanwhile are not kept.

        Raises:
            NotFound: the tenant was erased.
            Unavailable: a store is away; what was written by then is found by the next job, or
                deleted.
        """
        kept = [(photo, data) for photo, data in features.items() if photo.file]
        for start in range(0, len(kept), _AT_ONCE):
            self._keep(tenant, dataset, key, dict(kept[start : start + _AT_ONCE]))

    def _keep(
        self, tenant: str, dataset: str, key: str, features: Mapping[PhotoFile, bytes]
    ) -> None:
        paths = {photo: feature_path(tenant, dataset, key, photo.file) for photo in features}
        self._deletion.intend(tenant, *paths.values())
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._blobs.put, paths.values(), features.values()))
        flat = [part for photo in features for part in (photo.digest, photo.file, paths[photo])]
        gone = self._store.tenant_step(tenant, _KEEP, _keys(tenant, dataset), key, *flat)
        self._deletion.discard(gone)

    def paths(self, tenant: str, dataset: str, photos: Iterable[PhotoFile]) -> Iterator[str]:
        """Where the features of these photos may lie."""
        keys = self._store.smembers(_keys(tenant, dataset)[2])
        for photo in photos:
            for key in keys:
                yield feature_path(tenant, dataset, key, photo.file)


def feature_path(tenant: str, dataset: str, key: str, file: str) -> str:
    """Where the feature of the photo with this file lies."""
    return f"{features_folder(tenant, dataset)}/{key}/{file}"


def features_folder(tenant: str, dataset: str) -> str:
    """The folder of a data set's features."""
    return f"tenants/{tenant}/datasets/{dataset}/features"


def _keys(tenant: str, dataset: str) -> tuple[str, str, str]:
    name = tenant_redis_key(tenant, "dataset", dataset)
    return name, f"{name}:files", f"{name}:features"
