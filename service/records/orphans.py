"""Finds and mends what the two stores disagree on: unnamed files, records without their file.

This release leaves neither behind (see `service.records.deletion`). Earlier releases could, if a
store failed in the middle of a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from service.errors import NotFound
from service.records import Records
from service.records.deletion import Pending
from service.records.features import PhotoFile
from service.records.formats import BLOB
from service.records.store import every


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file without a record, or a record without its file."""

    kind: Literal["file", "picture", "version"]
    path: str  # of the file that is there, or is missing
    tenant: str = ""
    owner: str = ""  # the data set, or the adapter
    item: str = ""  # the picture's digest, or the version's number


def orphans(records: Records) -> Iterator[Orphan]:
    """Looks through both stores and changes nothing.

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

    A file is noted as unnamed. A later sweep deletes it, when no upload can be writing it.
    """
    for one in found:
        if one.kind == "picture":
            records.datasets.remove(one.tenant, one.owner, one.item)
        elif one.kind == "version":
            records.adapters.forget(one.tenant, one.owner, int(one.item))
    records.deletion.note(*(one.path for one in found if one.kind == "file"))


def _expected(records: Records) -> Iterator[Orphan]:
    """Every file that a record names."""
    for tenant in every(records.tenants.page):
        yield Orphan("file", records.tenants.file(tenant.id))
        yield from _of_datasets(records, tenant.id)
        yield from _of_adapters(records, tenant.id)


def _of_datasets(records: Records, tenant: str) -> Iterator[Orphan]:
    for dataset in every(partial(records.datasets.page, tenant)):
        yield Orphan("file", f"tenants/{tenant}/datasets/{dataset.id}/dataset.json")
        for digest, paths in records.datasets.files(tenant, dataset.id):
            yield Orphan("picture", paths[0], tenant, dataset.id, digest)
            for path in paths[1:]:
                yield Orphan("file", path)
        listed = records.datasets.listing(tenant, dataset.id)
        photos = [PhotoFile(one.image.digest, one.file) for one in listed if one.file]
        for path in records.features.paths(tenant, dataset.id, photos):
            yield Orphan("file", path)


def _of_adapters(records: Records, tenant: str) -> Iterator[Orphan]:
    for adapter in every(partial(records.adapters.page, tenant)):
        for version in adapter.versions:
            number = str(version.number)
            yield Orphan("version", version.path, tenant, adapter.name, number)
        yield Orphan("file", records.adapters.live_file(tenant, adapter.name))


def _still_recorded(records: Records, one: Orphan) -> bool:
    """Whether it was not deleted since its record was read."""
    try:
        if one.kind == "picture":
            return records.datasets.path(one.tenant, one.owner, one.item) == one.path
        records.adapters.version(one.tenant, one.owner, int(one.item))
    except NotFound:
        return False
    return True
