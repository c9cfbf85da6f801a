"""Where the two stores disagree: files that no record names, records whose file is missing.

Nothing of today's release leaves either behind (see `service.records.deletion`). Earlier releases
could, when a store failed in the middle of a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from service.records import Records
from service.records.adapters import version_path
from service.records.deletion import GRACE_SECONDS, Pending
from service.records.formats import BLOB
from service.records.store import UNNAMED


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file without a record, or a record without its file."""

    kind: Literal["file", "picture", "version"]
    path: str  # of the file that is there, or is missing
    tenant: str = ""
    owner: str = ""  # the data set, or the adapter
    item: str = ""  # the picture's digest, or the version's number


def orphans(records: Records) -> Iterator[Orphan]:
    """Looks through both stores. Writes nothing.

    Raises:
        Unavailable: a store is away.
    """
    there = set(records.blobs.paths(""))  # before the records: what is added meanwhile is named
    named: set[str] = {BLOB}
    missing: list[Orphan] = []
    for expected in _expected(records):
        named.add(expected.path)
        if expected.kind != "file" and expected.path not in there:
            missing.append(expected)
    pending = Pending(records.deletion.paths())
    for path in sorted(there - named):
        if not pending.covers(path):
            yield Orphan("file", path)
    for one in missing:
        if _still_recorded(records, one):
            yield one


def mend(records: Records, found: list[Orphan]) -> None:
    """Deletes files that no record names, and drops records whose file is missing.

    A file is noted as unnamed and goes with a later sweep, when no upload can be writing it.
    """
    for one in found:
        if one.kind == "picture":
            records.datasets.remove(one.tenant, one.owner, one.item)
        elif one.kind == "version":
            records.adapters.forget(one.tenant, one.owner, int(one.item))
    clock = int(records.store.time()[0])
    files = {one.path: clock + GRACE_SECONDS for one in found if one.kind == "file"}
    if files:
        records.store.zadd(UNNAMED, files, nx=True)


def _expected(records: Records) -> Iterator[Orphan]:
    """Every file that a record names."""
    cursor = None
    while True:
        page = records.tenants.page(1000, cursor)
        for tenant in page.items:
            yield Orphan("file", records.tenants.file(tenant.id))
            yield from _of_datasets(records, tenant.id)
            yield from _of_adapters(records, tenant.id)
        if (cursor := page.cursor) is None:
            return


def _of_datasets(records: Records, tenant: str) -> Iterator[Orphan]:
    cursor = None
    while True:
        page = records.datasets.page(tenant, 1000, cursor)
        for dataset in page.items:
            yield Orphan("file", f"tenants/{tenant}/datasets/{dataset.id}/dataset.json")
            for digest, paths in records.datasets.files(tenant, dataset.id):
                yield Orphan("picture", paths[0], tenant, dataset.id, digest)
                for path in paths[1:]:
                    yield Orphan("file", path)
        if (cursor := page.cursor) is None:
            return


def _of_adapters(records: Records, tenant: str) -> Iterator[Orphan]:
    cursor = None
    while True:
        page = records.adapters.page(tenant, 1000, cursor)
        for adapter in page.items:
            folder = f"tenants/{tenant}/adapters/{adapter.name}"
            for version in adapter.versions:
                path = version_path(folder, version.number)
                yield Orphan("version", path, tenant, adapter.name, str(version.number))
            yield Orphan("file", records.adapters.live_file(tenant, adapter.name))
        if (cursor := page.cursor) is None:
            return


def _still_recorded(records: Records, one: Orphan) -> bool:
    """Whether it was not deleted since its record was read."""
    if one.kind == "picture":
        now = dict(records.datasets.files(one.tenant, one.owner))
        return one.path in now.get(one.item, ())
    adapters = records.adapters.page(one.tenant, 1000, None).items
    numbers = {v.number for a in adapters if a.name == one.owner for v in a.versions}
    return int(one.item) in numbers
