"""/v1/datasets: data sets and their pictures."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from adapters.pixels import media_type, thumbnail
from service.http.auth import ComponentsDep, Manager
from service.http.examples import PHOTO
from service.http.labels import Labels
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import DatasetPath, ImagePath
from service.http.schemas import (
    DatasetIn,
    DatasetOut,
    ImageOut,
    MoveIn,
    UploadOut,
)
from service.http.uploads import PhotoUpload
from service.wiring import image_limits

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


@router.post("", status_code=201)
def create_dataset(components: ComponentsDep, tenant: Manager, body: DatasetIn) -> DatasetOut:
    """Makes an empty data set. Photos are uploaded to it afterwards."""
    tags = {label: str(tag) for label, tag in body.tags.items()}
    return DatasetOut.of(components.records.datasets.create(tenant, body.name, tags))


@router.get("")
def list_datasets(
    components: ComponentsDep, tenant: Manager, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[DatasetOut]:
    """Lists data sets, the oldest first."""
    page = components.records.datasets.page(tenant, limit, cursor)
    return PageOut(items=[DatasetOut.of(d) for d in page.items], cursor=page.cursor)


@router.get("/{dataset}")
def get_dataset(components: ComponentsDep, tenant: Manager, dataset: DatasetPath) -> DatasetOut:
    """Shows one data set and its number of photos per class."""
    return DatasetOut.of(components.records.datasets.get(tenant, dataset))


@router.delete("/{dataset}", status_code=204)
def delete_dataset(components: ComponentsDep, tenant: Manager, dataset: DatasetPath) -> None:
    """Deletes a data set with all its photos. Adapters fitted on it stay."""
    components.records.datasets.delete(tenant, dataset)


@router.post("/{dataset}/images")
async def upload_images(
    components: ComponentsDep,
    tenant: Manager,
    dataset: DatasetPath,
    label: Annotated[str | None, Form(examples=["rose"])] = None,
    files: Annotated[list[UploadFile] | None, File(examples=[["@1.jpg", "@2.jpg"]])] = None,
    archive: Annotated[UploadFile | None, File()] = None,
) -> UploadOut:
    """Stores the photos that can be read, and lists the files that cannot.

    Send `label` with `files`, or one `archive` (zip or tar, with a folder per class).
    """

    def work() -> UploadOut:
        return PhotoUpload(components, tenant, dataset).run(label, files or [], archive)

    return await asyncio.wrap_future(components.uploads.submit(tenant, work))


@router.get("/{dataset}/images")
def list_images(
    components: ComponentsDep,
    tenant: Manager,
    dataset: DatasetPath,
    label: str | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> PageOut[ImageOut]:
    """Lists the photos, or those of one class. A page holds about `limit` of them."""
    page = components.records.datasets.images(tenant, dataset, label, limit, cursor)
    return PageOut(items=[ImageOut.of(image) for image in page.items], cursor=page.cursor)


@router.get("/{dataset}/images/{image}", response_class=Response, responses=PHOTO)
async def get_image(
    request: Request,
    components: ComponentsDep,
    tenant: Manager,
    dataset: DatasetPath,
    image: ImagePath,
    size: Annotated[
        int | None, Query(ge=16, le=512, description="a square JPEG of so many pixels")
    ] = None,
) -> Response:
    """Answers with a photo as it was sent, or, with `size`, as a small square JPEG."""
    records = components.records.datasets
    found = await run_in_threadpool(records.image, tenant, dataset, image)
    headers = {
        "ETag": f'"{found.digest}-{size or "whole"}"',
        "Cache-Control": "private, max-age=31536000, immutable",  # its name is that of its bytes
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    data = await run_in_threadpool(records.data, tenant, dataset, found.digest)
    if size is None:
        return Response(data, media_type=media_type(data), headers=headers)
    limits = image_limits(components.settings)
    shrunk = components.decoders.submit(tenant, thumbnail, data, size, limits)
    small = await asyncio.wrap_future(shrunk)
    return Response(small, media_type="image/jpeg", headers=headers)


@router.patch("/{dataset}/images/{image}")
def move_image(
    components: ComponentsDep, tenant: Manager, dataset: DatasetPath, image: ImagePath, body: MoveIn
) -> ImageOut:
    """Moves a photo to another class of the data set."""
    present = components.records.datasets.image(tenant, dataset, image).label
    known = components.records.datasets.get(tenant, dataset).labels
    others = (label for label in known if label != present)  # so that a class can be renamed
    most = components.settings.max_classes
    label = Labels(components.clip, others, most).take(body.label)
    return ImageOut.of(components.records.datasets.move(tenant, dataset, image, label))


@router.delete("/{dataset}/images/{image}", status_code=204)
def delete_image(
    components: ComponentsDep, tenant: Manager, dataset: DatasetPath, image: ImagePath
) -> None:
    """Deletes one photo."""
    components.records.datasets.image(tenant, dataset, image)
    components.records.datasets.remove(tenant, dataset, image)
