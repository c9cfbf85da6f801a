"""Rebuilds Redis's records from the object store: tenants, data sets, adapters, live versions."""

import logging
from dataclasses import dataclass

from service.errors import Invalid, NotFound
from service.records import Records
from service.records.adapters import LeftOut
from service.records.datasets import Usage
from service.records.deletion import Pending
from service.records.formats import check_blobs
from service.records.tenants import is_manifest, revision_of

log = logging.getLogger(__name__)


def log_left_out(path: str, reason: str) -> None:
    """Logs a file that was not restored, and why."""
    log.error("left out %s: %s", path, reason)


def restore(records: Records, left_out: LeftOut = log_left_out) -> int:
    """Reads every manifest and artifact header.

    Files that a crash left of a deleted thing have no manifest and stay unrecorded, as do files
    that are to be deleted. A file that cannot be read or names another owner is left out alone.

    Args:
        records: the stores.
        left_out: called with the path of each file that cannot be used, and why. The file stays.

    Returns:
        The number of tenants.

    Raises:
        NewerFormat: a newer release wrote the blobs; nothing was done.
    """
    check_blobs(records.blobs)
    pending = Pending(records.deletion.paths())
    found = _found(records, pending)
    latest = sorted(found.tenants.items())
    tenants = [tenant for tenant, path in latest if _tenant(records, tenant, path, left_out)]
    used: dict[str, list[Usage]] = {tenant: [] for tenant in tenants}
    for tenant, dataset in sorted(found.datasets):
        if tenant in used:
            try:
                used[tenant].append(records.datasets.restore(tenant, dataset, pending))
            except Invalid as error:
                left_out(f"tenants/{tenant}/datasets/{dataset}/dataset.json", str(error))
    for tenant, usage in used.items():
        records.datasets.restore_usage(tenant, usage)
    for tenant, adapter in sorted(found.adapters):
        if tenant in used:
            records.adapters.restore(tenant, adapter, pending, left_out)
    return len(tenants)


@dataclass(frozen=True, slots=True)
class _Found:
    """The tenants with their latest file, and the data sets and adapters that have files."""

    tenants: dict[str, str]
    datasets: set[tuple[str, str]]
    adapters: set[tuple[str, str]]


def _found(records: Records, pending: Pending) -> _Found:
    found = _Found({}, set(), set())
    for path in records.blobs.paths("tenants"):
        if pending.covers(path):
            continue
        match path.split("/"):
            case [_, tenant, name] if is_manifest(name):
                found.tenants[tenant] = max(path, found.tenants.get(tenant, ""), key=revision_of)
            case [_, tenant, "datasets", dataset, "dataset.json"]:
                found.datasets.add((tenant, dataset))
            case [_, tenant, "adapters", adapter, "versions", _]:
                found.adapters.add((tenant, adapter))
    return found


def _tenant(records: Records, tenant: str, path: str, left_out: LeftOut) -> bool:
    """Whether the tenant's record was made: not if it was erased, or its file names another."""
    try:
        records.tenants.restore(tenant, path)
    except NotFound:
        left_out(path, "the tenant was erased")
        return False
    except Invalid as error:
        left_out(path, str(error))
        return False
    return True
