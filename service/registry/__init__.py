"""Records: tenants, data sets, jobs, adapters, in Redis; what must outlive Redis also as blobs."""

from dataclasses import dataclass

from service.blobs import Blobs
from service.registry.adapters import Adapters
from service.registry.datasets import Datasets
from service.registry.jobs import Jobs
from service.registry.store import Store, connect
from service.registry.tenants import Tenants
from service.settings import Settings
from training.jobs import make_broker


@dataclass(frozen=True, slots=True)
class Registry:
    """One noun, one member."""

    store: Store
    blobs: Blobs
    tenants: Tenants
    datasets: Datasets
    jobs: Jobs
    adapters: Adapters


def open_registry(redis_url: str, blob_url: str, settings: Settings) -> Registry:
    """Connects at the first use; nothing fails here."""
    store, blobs = connect(redis_url), Blobs(blob_url)
    broker = make_broker(store)  # so that a Redis that is away is Unavailable here too
    return Registry(
        store,
        blobs,
        Tenants(store, blobs),
        Datasets(store, blobs, settings.max_tenant_images),
        Jobs(store, broker, settings.max_open_jobs, settings.tenant_parallel_jobs),
        Adapters(store, blobs),
    )
