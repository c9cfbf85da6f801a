"""Records that a test puts there itself."""

import json

from service.records import Records
from service.records.datasets import Usage
from service.records.store import tenant_redis_key
from service.records.tenant_step import FORMER_ADAPTERS, TENANT_STEP


def plant_dataset(records: Records, tenant: str, dataset: str = "dataset_1") -> None:
    """The record of an empty data set, for what only asks whether it is there."""
    plain = {"id": dataset, "name": "planted", "created_at": "2026-01-01T00:00:00.000Z"}
    records.store.set(tenant_redis_key(tenant, "dataset", dataset), json.dumps(plain))


def tenant_step_keeping(names: int) -> str:
    """The beginning of every tenant's step, which keeps fewer names of deleted adapters."""
    assert f"> {FORMER_ADAPTERS} do" in TENANT_STEP
    return TENANT_STEP.replace(f"> {FORMER_ADAPTERS} do", f"> {names} do")


def usage_of(records: Records, tenant: str) -> Usage:
    """What a tenant's quotas say that it has."""
    (quotas,) = records.quotas.of([tenant])
    return Usage(quotas["images"].used, quotas["bytes"].used, quotas["datasets"].used)
