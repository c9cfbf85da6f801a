"""Tenants, data sets, jobs and adapters: records in Redis, files in the object store."""

from contextlib import suppress
from dataclasses import dataclass

from service.errors import NewerFormat, Unavailable
from service.records.adapters import Adapters
from service.records.blobs import Blobs
from service.records.datasets import Datasets, Usage
from service.records.deletion import Deletion
from service.records.features import FeatureFiles
from service.records.formats import check_blobs, mark_blobs
from service.records.jobs import Bounds, Jobs
from service.records.quotas import Amounts, Quotas
from service.records.rates import Rate, Rates
from service.records.store import Breaker, RecordStore, connect
from service.records.tenants import Tenants
from service.settings import Settings
from training.jobs import make_broker

_LOOKUP_TIMEOUT = 0.3  # seconds: then classify goes on with what it remembers
_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The stores, and a member for each kind of record."""

    store: RecordStore
    blobs: Blobs
    tenants: Tenants
    datasets: Datasets
    features: FeatureFiles
    jobs: Jobs
    adapters: Adapters
    rates: Rates
    quotas: Quotas
    deletion: Deletion

    def refuse_newer(self) -> None:
        """Refuses records and blobs that a newer release wrote.

        It does not wait for a store that is away: each new connection to Redis looks again.

        Raises:
            NewerFormat: a newer release wrote them.
        """
        for look in (self.store.ping, lambda: check_blobs(self.blobs)):
            try:
                look()
            except NewerFormat:
                raise
            except Unavailable:
                continue

    def start(self) -> None:
        """Refuses a newer format and marks its own; a server or a worker calls this first.

        Raises:
            NewerFormat: a newer release wrote what is stored.
        """
        self.refuse_newer()
        with suppress(Unavailable):  # then the next server or worker marks it
            mark_blobs(self.blobs)


def open_records(redis_url: str, blob_url: str, settings: Settings) -> Records:
    """The records of these stores. It connects at the first use, so it cannot fail."""
    store, blobs = connect(redis_url), Blobs(blob_url, settings.s3_keys())
    breaker = Breaker()  # a change waits longer than a lookup, and has a breaker of its own
    lookups = connect(redis_url, _LOOKUP_TIMEOUT, breaker)  # used by every classify request
    broker = make_broker(store)  # over `store`, so that its errors are translated too
    deletion = Deletion(store, blobs)
    return Records(
        store=store,
        blobs=blobs,
        tenants=Tenants(store, blobs, deletion, settings.max_tenant_keys, lookups),
        datasets=Datasets(
            store,
            blobs,
            deletion,
            Usage(
                settings.max_tenant_images, settings.max_tenant_bytes, settings.max_tenant_datasets
            ),
            settings.max_tenant_record_bytes,
        ),
        features=FeatureFiles(store, blobs, deletion),
        jobs=Jobs(
            store,
            broker,
            Bounds(
                open_jobs=settings.max_open_jobs,
                adapters=settings.max_tenant_adapters,
                versions=settings.max_versions,
                parallel=settings.tenant_parallel_jobs,
                kept_seconds=settings.job_days * _DAY_SECONDS,
                ended_jobs=settings.max_ended_jobs,
                record_bytes=settings.max_tenant_record_bytes,
            ),
        ),
        adapters=Adapters(store, blobs, deletion, lookups),
        rates=Rates(
            connect(redis_url, _LOOKUP_TIMEOUT, breaker),
            {
                "classify": Rate(settings.classify_rate, settings.classify_burst),
                "manage": Rate(settings.manage_rate, settings.manage_burst),
            },
        ),
        quotas=Quotas(
            store,
            Amounts(
                images=settings.max_tenant_images,
                bytes=settings.max_tenant_bytes,
                record_bytes=settings.max_tenant_record_bytes,
                datasets=settings.max_tenant_datasets,
                adapters=settings.max_tenant_adapters,
                open_jobs=settings.max_open_jobs,
            ),
        ),
        deletion=deletion,
    )
