"""/v1/adapters: versions, and which one is live."""

from fastapi import APIRouter, Response

from service.http.auth import Manager, Reach, Reader
from service.http.paging import Cursor, Limit, PageOut
from service.http.schemas import AdapterOut, LiveIn

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])


@router.get("")
def list_adapters(
    reach: Reach, tenant: Reader, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[AdapterOut]:
    page = reach.registry.adapters.page(tenant, limit, cursor)
    return PageOut(items=[AdapterOut.of(a) for a in page.items], cursor=page.cursor)


@router.get("/{adapter}")
def get_adapter(reach: Reach, tenant: Reader, adapter: str) -> AdapterOut:
    return AdapterOut.of(reach.registry.adapters.get(tenant, adapter))


@router.put("/{adapter}/live")
def publish(reach: Reach, tenant: Manager, adapter: str, body: LiveIn) -> AdapterOut:
    """Publishes a version, or rolls back to it; no answer is missed."""
    reach.registry.adapters.publish(tenant, adapter, body.version)
    return AdapterOut.of(reach.registry.adapters.get(tenant, adapter))


@router.delete("/{adapter}", status_code=204)
def delete_adapter(reach: Reach, tenant: Manager, adapter: str) -> None:
    reach.registry.adapters.delete(tenant, adapter)


@router.delete("/{adapter}/versions/{version}", status_code=204)
def delete_version(reach: Reach, tenant: Manager, adapter: str, version: int) -> None:
    """The live version cannot go: 409."""
    reach.registry.adapters.delete_version(tenant, adapter, version)


@router.get("/{adapter}/versions/{version}/artifact", response_class=Response)
def get_artifact(reach: Reach, tenant: Manager, adapter: str, version: int) -> Response:
    """The safetensors file."""
    found = reach.registry.adapters.version(tenant, adapter, version)
    name = f'attachment; filename="{adapter}-{version}.safetensors"'
    return Response(
        reach.registry.blobs.get(found.path),
        media_type="application/octet-stream",
        headers={"Content-Disposition": name, "ETag": f'"{found.sha256}"'},
    )
