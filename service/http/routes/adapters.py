"""/v1/adapters: versions, and which one is live."""

from dataclasses import replace

from fastapi import APIRouter, Response

from service.http.auth import ComponentsDep, Manager, Reader
from service.http.examples import ARTIFACT
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import AdapterPath, VersionPath
from service.http.schemas import AdapterOut, LiveIn, VersionOut
from service.records.adapters import Adapter
from service.wiring import Components

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])

_REPORTS = 20  # of an adapter's latest versions; `GET …/versions/{version}` has each one's


@router.get("")
def list_adapters(
    components: ComponentsDep, tenant: Reader, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[AdapterOut]:
    """Lists adapters by name, each with its versions and which one is live."""
    page = components.records.adapters.page(tenant, limit, cursor)
    return PageOut(items=[AdapterOut.of(a) for a in page.items], cursor=page.cursor)


@router.get("/{adapter}")
def get_adapter(components: ComponentsDep, tenant: Reader, adapter: AdapterPath) -> AdapterOut:
    """Shows one adapter, its versions and which one is live."""
    return AdapterOut.of(_reported(components, components.records.adapters.get(tenant, adapter)))


def _reported(components: Components, adapter: Adapter) -> Adapter:
    """An adapter with whole reports of its latest versions and the live one."""
    shown = {version.number for version in adapter.versions[:_REPORTS]} | {adapter.live}
    read = components.records.adapters.with_report
    versions = (read(v) if v.number in shown else v for v in adapter.versions)
    return replace(adapter, versions=tuple(versions))


@router.get("/{adapter}/versions/{version}")
def get_version(
    components: ComponentsDep, tenant: Reader, adapter: AdapterPath, version: VersionPath
) -> VersionOut:
    """Shows one version with its whole report."""
    found = components.records.adapters.version(tenant, adapter, version)
    live = components.records.adapters.live_number(tenant, adapter)
    return VersionOut.of(components.records.adapters.with_report(found), live)


@router.put("/{adapter}/live")
def publish(
    components: ComponentsDep, tenant: Manager, adapter: AdapterPath, body: LiveIn
) -> AdapterOut:
    """Publishes a version, or rolls back to an older one. No request is missed."""
    components.records.adapters.publish(tenant, adapter, body.version)
    return AdapterOut.of(_reported(components, components.records.adapters.get(tenant, adapter)))


@router.delete("/{adapter}", status_code=204)
def delete_adapter(components: ComponentsDep, tenant: Manager, adapter: AdapterPath) -> None:
    """Deletes an adapter with all its versions. It no longer answers."""
    components.records.adapters.delete(tenant, adapter)


@router.delete("/{adapter}/versions/{version}", status_code=204)
def delete_version(
    components: ComponentsDep, tenant: Manager, adapter: AdapterPath, version: VersionPath
) -> None:
    """Deletes one version. The live version cannot be deleted: 409."""
    components.records.adapters.delete_version(tenant, adapter, version)


@router.get(
    "/{adapter}/versions/{version}/artifact",
    response_class=Response,
    responses=ARTIFACT,
)
def get_artifact(
    components: ComponentsDep, tenant: Manager, adapter: AdapterPath, version: VersionPath
) -> Response:
    """Downloads a version as a safetensors file; its checksum is the ETag."""
    found = components.records.adapters.version(tenant, adapter, version)
    name = f'attachment; filename="{adapter}-{version}.safetensors"'
    return Response(
        components.records.blobs.get(found.path),
        media_type="application/octet-stream",
        headers={"Content-Disposition": name, "ETag": f'"{found.sha256}"'},
    )
