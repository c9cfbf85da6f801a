"""Unnamed files, which no record names yet or any longer: all of them are deleted in the end.

A record (Redis) and its file (object store) change in two steps, and either store can fail between
the two. These rules make the stores agree in the end, whatever fails:

1. A path is never used twice, so a late deletion can do no harm. Moving a picture or publishing a
   version writes a new small file beside the old one.
2. Before a file is written, its path is noted as unnamed, with the time at which it is due.
3. The step that records the file removes this note, and does nothing if the note is gone.
4. The step that drops a record notes its files as unnamed again, due at once.
5. Files that are due are deleted: at once by the caller, and if that fails, by a worker's sweep.

Rules 3 and 4 are each one step for Redis, in which the tenant's record must still be there
(`RecordStore.tenant_step`). A path that ends with "/" stands for all files below it.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress

from service.errors import Unavailable
from service.records.blobs import Blobs
from service.records.store import DELETING, UNNAMED, RecordStore

log = logging.getLogger(__name__)

GRACE_SECONDS = 600  # by then a file's writer has recorded it or failed
_AT_ONCE = 1000  # paths of one sweep
AGAIN_SECONDS = 60  # then a deletion that has not ended is begun again

_INTEND = f"""
local revised = revision()
for _, path in ipairs(ARGV) do
  if not intend((string.gsub(path, 'REVISION', revised)), {GRACE_SECONDS}) then return '' end
end
return revised
"""
_NOTE = f"""
for _, path in ipairs(ARGV) do
  redis.call('zadd', KEYS[1], 'NX', redis.call('time')[1] + {GRACE_SECONDS}, path)
end
"""
# Takes the given paths, or those that are due, from the unnamed ones: no step can record them then.
_BEGIN = """#!lua flags=allow-oom
local unnamed, deleting = KEYS[1], KEYS[2]
local clock, most, again = tonumber(redis.call('time')[1]), tonumber(ARGV[1]), tonumber(ARGV[2])
local begun = {}
local function begin(path)
  redis.call('zadd', deleting, clock, path)
  redis.call('zrem', unnamed, path)
  begun[#begun + 1] = path
end
if #ARGV > 2 then
  for i = 3, #ARGV do if redis.call('zscore', unnamed, ARGV[i]) then begin(ARGV[i]) end end
  return begun
end
for _, path in ipairs(redis.call('zrangebyscore', deleting, 0, clock - again, 'LIMIT', 0, most)) do
  begin(path)
end
for _, path in ipairs(redis.call('zrangebyscore', unnamed, 0, clock, 'LIMIT', 0, most)) do
  begin(path)
end
return begun
"""


class Deletion:
    """Deletes files that no record names."""

    def __init__(self, store: RecordStore, blobs: Blobs) -> None:
        self._store, self._blobs = store, blobs

    def intend(self, tenant: str, *paths: str) -> tuple[str, ...]:
        """Notes files of a tenant that are about to be written.

        Args:
            tenant: whose files they are.
            paths: their paths; REVISION in a path stands for a new revision.

        Returns:
            The paths with the revision. Revisions sort by their time.

        Raises:
            NotFound: the tenant was erased.
            Unavailable: a file of this name is being deleted.
        """
        revision = str(self._store.tenant_step(tenant, _INTEND, (), *paths))
        refuse_late(not revision)
        return tuple(path.replace("REVISION", revision) for path in paths)

    def note(self, *paths: str) -> None:
        """Notes files of any tenant as unnamed; existing notes do not change."""
        if paths:
            self._store.eval(_NOTE, 1, UNNAMED, *paths)

    def discard(self, paths: Iterable[str]) -> None:
        """Deletes files that were noted as unnamed. If a store is away, the sweep does it later."""
        with suppress(Unavailable):
            self._delete(*paths)

    def sweep(self) -> int:
        """Deletes the files that are due.

        Returns:
            How many paths were deleted.

        Raises:
            Unavailable: a store is away. What is left is due again in a minute.
        """
        return self._delete()

    def paths(self) -> Iterator[str]:
        """All paths that are to be deleted or that no record names yet."""
        for key in (UNNAMED, DELETING):
            yield from (path for path, _ in self._store.zscan_iter(key, count=1000))

    def _delete(self, *given: str) -> int:
        begun = self._store.eval(_BEGIN, 2, UNNAMED, DELETING, _AT_ONCE, AGAIN_SECONDS, *given)
        for path in begun:
            if path.endswith("/"):
                for file in self._blobs.files(path):  # a manifest first: a restore needs it
                    self._blobs.delete(file)
                self._blobs.delete_all(path.removesuffix("/"))
            else:
                self._blobs.delete(path)
            self._store.zrem(DELETING, path)
        return len(begun)


def refuse_late(late: bool) -> None:
    """Raises Unavailable for a file that was deleted before it could be recorded."""
    if late:
        raise Unavailable("storing this took too long")


class Pending:
    """A set of paths that are to be deleted."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = set(paths)

    def covers(self, path: str) -> bool:
        """Whether this file or a folder above it is to be deleted."""
        if path in self._paths:
            return True
        parts = path.split("/")
        return any("/".join(parts[:i]) + "/" in self._paths for i in range(1, len(parts)))
