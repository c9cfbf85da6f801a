"""/v1/quotas: what a tenant uses, and may use."""

from fastapi import APIRouter

from service.http.auth import ComponentsDep, Manager
from service.http.schemas import QuotasOut

router = APIRouter(prefix="/v1/quotas", tags=["data sets"])


@router.get("")
def get_quotas(components: ComponentsDep, tenant: Manager) -> QuotasOut:
    """What the tenant uses of each quota: photos, their bytes, data sets, adapters, open jobs."""
    (quotas,) = components.records.quotas.of([tenant])
    return QuotasOut.of(quotas)
