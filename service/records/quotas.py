"""What tenants use of each quota. The steps that store a thing count it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from service.records.store import RecordStore, tenant_redis_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Of each kind, what a tenant has or may have."""

    images: int
    bytes: int  # of these, as sent
    record_bytes: int  # of the records of pictures and versions
    datasets: int
    adapters: int
    open_jobs: int


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a quota is used."""

    used: int
    limit: int


class Quotas:
    """Reads what tenants use."""

    def __init__(self, store: RecordStore, limits: Amounts) -> None:
        self._store, self._limits = store, limits

    def of(self, tenants: Sequence[str]) -> list[dict[str, Quota]]:
        """The quotas of each tenant by their names, in one round trip."""
        with self._store.pipeline() as pipe:
            for tenant in tenants:
                pipe.get(tenant_redis_key(tenant, "images"))
                pipe.get(tenant_redis_key(tenant, "bytes"))
                pipe.hget(tenant_redis_key(tenant, "record-bytes"), "total")
                pipe.zcard(tenant_redis_key(tenant, "datasets"))
                pipe.zcard(tenant_redis_key(tenant, "adapters"))
                pipe.zcard(tenant_redis_key(tenant, "open-jobs"))
            answers = [int(answer or 0) for answer in (pipe.execute() if tenants else [])]
        limits = asdict(self._limits)
        size = len(limits)
        each = (answers[i : i + size] for i in range(0, len(answers), size))
        return [
            {name: Quota(used, limits[name]) for name, used in zip(limits, amounts, strict=True)}
            for amounts in each
        ]
