"""/v1/datasets: data sets and their pictures."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from adapters.errors import BadImage
from adapters.pixels import decode, media_type, thumbnail
from service.archives import ArchiveLimits, Rejected, read_archive
from service.errors import Invalid, OverQuota, Problem, TooLarge
from service.http.auth import Manager, Reach
from service.http.paging import Cursor, Limit, PageOut
from service.http.schemas import DatasetOut, ImageOut, MoveIn, Named, RejectedOut, UploadOut
from service.records.datasets import Added
from service.wiring import Services, image_limits
from training.data import Sample

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_MAX_LABEL = 100  # characters
_MAX_NAME = 255


@router.post("", status_code=201)
def create_dataset(reach: Reach, tenant: Manager, body: Named) -> DatasetOut:
    return DatasetOut.of(reach.registry.datasets.create(tenant, body.name))


@router.get("")
def list_datasets(
    reach: Reach, tenant: Manager, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[DatasetOut]:
    page = reach.registry.datasets.page(tenant, limit, cursor)
    return PageOut(items=[DatasetOut.of(d) for d in page.items], cursor=page.cursor)


@router.get("/{dataset}")
def get_dataset(reach: Reach, tenant: Manager, dataset: str) -> DatasetOut:
    return DatasetOut.of(reach.registry.datasets.get(tenant, dataset))


@router.delete("/{dataset}", status_code=204)
def delete_dataset(reach: Reach, tenant: Manager, dataset: str) -> None:
    reach.registry.datasets.delete(tenant, dataset)


@router.post("/{dataset}/images")
def upload_images(
    reach: Reach,
    tenant: Manager,
    dataset: str,
    label: Annotated[str | None, Form(examples=["rose"])] = None,
    files: Annotated[list[UploadFile] | None, File(examples=[["@1.jpg", "@2.jpg"]])] = None,
    archive: Annotated[UploadFile | None, File()] = None,
) -> UploadOut:
    """Stores what is good and lists what is not: `label` with `files`, or one `archive`
    (zip or tar, a folder a class)."""
    reach.registry.datasets.get(tenant, dataset)
    accepted, rejected, duplicates = 0, [], []
    new: list[str] = []
    try:
        for item in _incoming(reach, label, files or [], archive):
            outcome = _store(reach, tenant, dataset, item)
            if isinstance(outcome, Rejected):
                rejected.append(outcome)
                continue
            accepted += 1
            if outcome.new:
                new.append(outcome.digest)
            else:
                duplicates.append(_path(item))
    except (Invalid, OverQuota, TooLarge):  # all of an upload or, as its answer says, nothing
        for digest in new:
            reach.registry.datasets.remove(tenant, dataset, digest)
        raise
    if not accepted:
        problems = [Problem(r.file, r.reason) for r in rejected]
        raise Invalid("no picture was good", *(problems or [Problem("files", "none were sent")]))
    return UploadOut(
        accepted=accepted,
        rejected=[RejectedOut(file=r.file, reason=r.reason) for r in rejected],
        duplicates=duplicates,
        labels=reach.registry.datasets.get(tenant, dataset).labels,
    )


@router.get("/{dataset}/images")
def list_images(
    reach: Reach,
    tenant: Manager,
    dataset: str,
    label: str | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> PageOut[ImageOut]:
    """The pictures, or those of one class. A page holds about `limit` of them."""
    page = reach.registry.datasets.images(tenant, dataset, label, limit, cursor)
    return PageOut(items=[ImageOut.of(image) for image in page.items], cursor=page.cursor)


@router.get("/{dataset}/images/{image}", response_class=Response)
def get_image(
    request: Request,
    reach: Reach,
    tenant: Manager,
    dataset: str,
    image: str,
    size: Annotated[
        int | None, Query(ge=16, le=512, description="a square JPEG of so many pixels")
    ] = None,
) -> Response:
    """A picture as it was sent, or small."""
    found = reach.registry.datasets.image(tenant, dataset, image)
    headers = {
        "ETag": f'"{found.digest}-{size or "whole"}"',
        "Cache-Control": "private, max-age=31536000, immutable",  # its name is that of its bytes
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    data = reach.registry.datasets.data(tenant, dataset, found)
    if size is None:
        return Response(data, media_type=media_type(data), headers=headers)
    small = thumbnail(data, size, image_limits(reach.settings))
    return Response(small, media_type="image/jpeg", headers=headers)


@router.patch("/{dataset}/images/{image}")
def move_image(reach: Reach, tenant: Manager, dataset: str, image: str, body: MoveIn) -> ImageOut:
    """Puts a picture into another class."""
    _check_label(body.label)
    return ImageOut.of(reach.registry.datasets.move(tenant, dataset, image, body.label.strip()))


@router.delete("/{dataset}/images/{image}", status_code=204)
def delete_image(reach: Reach, tenant: Manager, dataset: str, image: str) -> None:
    reach.registry.datasets.image(tenant, dataset, image)
    reach.registry.datasets.remove(tenant, dataset, image)


def _incoming(
    reach: Services, label: str | None, files: list[UploadFile], archive: UploadFile | None
) -> Iterable[Sample | Rejected]:
    if (archive is None) == (not files):
        raise Invalid(
            "send either files with a label, or one archive", Problem("files", "required")
        )
    if archive is not None:
        settings = reach.settings
        limits = ArchiveLimits(
            settings.max_archive_entries, settings.max_archive_bytes, settings.max_image_bytes
        )
        return read_archive(archive.file, limits)
    if label is None:
        raise Invalid("files need a label", Problem("label", "required"))
    _check_label(label)
    return _labelled(label.strip(), files)


def _labelled(label: str, files: list[UploadFile]) -> Iterator[Sample]:
    for file in files:
        yield Sample(label, (file.filename or "")[-_MAX_NAME:], file.file.read())


def _store(reach: Services, tenant: str, dataset: str, item: Sample | Rejected) -> Added | Rejected:
    """Where the picture is stored, or why it is not."""
    if isinstance(item, Rejected):
        return item
    name = _path(item)
    try:
        _check_label(item.label)
        decode(item.data, reach.clip.spec, image_limits(reach.settings))
    except (BadImage, Invalid) as error:
        return Rejected(name, str(error))
    added = reach.registry.datasets.add(tenant, dataset, item)
    if added.label != item.label:
        return Rejected(name, f"the same picture is in class {added.label!r}")
    return added


def _path(item: Sample | Rejected) -> str:
    return item.file if isinstance(item, Rejected) else str(PurePosixPath(item.label) / item.name)


def _check_label(label: str) -> None:
    if not label.strip() or len(label) > _MAX_LABEL or not label.isprintable():
        raise Invalid(
            f"a label has 1 to {_MAX_LABEL} printable characters",
            Problem("label", repr(label[:120])),
        )
