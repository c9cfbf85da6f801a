"""Makes Redis's records anew from the blob store: tenants, data sets, adapters, what is live."""

import logging

from service.errors import NotFound
from service.records import Records
from service.records.adapters import LeftOut
from service.records.datasets import Usage
from service.records.formats import check_blobs
from service.records.tenants import read_manifest

log = logging.getLogger(__name__)


def log_left_out(path: str, reason: str) -> None:
    """Logs a file that was not restored, and why."""
    log.error("left out %s: %s", path, reason)


def restore(records: Records, left_out: LeftOut = log_left_out) -> int:
    """Reads every manifest and artifact header. Returns the number of tenants.

    What a crash left of something that was being deleted has no manifest, and stays deleted. An
    adapter's file that cannot be read keeps nothing else back: `left_out` is told, and it stays.

    Raises:
        NewerFormat: a newer release wrote the blobs; nothing was done.
    """
    check_blobs(records.blobs)
    tenants: set[str] = set()
    datasets: set[tuple[str, str]] = set()
    adapters: set[tuple[str, str]] = set()
    for path in records.blobs.paths("tenants"):
        match path.split("/"):
            case [_, tenant, "tenant.json"]:
                tenants.add(tenant)
            case [_, tenant, "datasets", dataset, "dataset.json"]:
                datasets.add((tenant, dataset))
            case [_, tenant, "adapters", adapter, "versions", _]:
                adapters.add((tenant, adapter))
    for tenant in sorted(tenants):
        path = f"tenants/{tenant}/tenant.json"
        try:
            records.tenants.save(read_manifest(records.blobs.get(path)))
        except NotFound:
            left_out(path, "the tenant was erased")
            tenants.discard(tenant)
    used: dict[str, list[Usage]] = {tenant: [] for tenant in tenants}
    for tenant, dataset in sorted(datasets):
        if tenant in tenants:
            used[tenant].append(records.datasets.restore(tenant, dataset))
    for tenant, found in used.items():
        records.datasets.restore_usage(tenant, found)
    for tenant, adapter in sorted(adapters):
        if tenant in tenants:
            records.adapters.restore(tenant, adapter, left_out)
    return len(tenants)
