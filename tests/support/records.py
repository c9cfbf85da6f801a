"""Records that a test puts there itself."""

import json

from service.records import Records
from service.records.store import tenant_redis_key


def plant_dataset(records: Records, tenant: str, dataset: str = "dataset_1") -> None:
    """The record of an empty data set, for what only asks whether it is there."""
    plain = {"id": dataset, "name": "planted", "created_at": "2026-01-01T00:00:00.000Z"}
    records.store.set(tenant_redis_key(tenant, "dataset", dataset), json.dumps(plain))
