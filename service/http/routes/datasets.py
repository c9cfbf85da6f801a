"""/v1/datasets: data sets and their pictures."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from adapters.clip import FrozenCLIP
from adapters.errors import BadClasses, BadImage
from adapters.names import has_control, normal_name
from adapters.pixels import decode_image, media_type, thumbnail
from service.archives import ArchiveLimits, Rejected, read_archive
from service.errors import Invalid, OverQuota, Problem, TooLarge
from service.http.auth import ComponentsDep, Manager
from service.http.examples import PHOTO
from service.http.paging import Cursor, Limit, PageOut
from service.http.paths import DatasetPath, ImagePath
from service.http.schemas import (
    MAX_NAME,
    DatasetOut,
    ImageOut,
    MoveIn,
    Named,
    RejectedOut,
    UploadOut,
)
from service.records.datasets import Added
from service.wiring import Components, image_limits
from training.data import Sample

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_MAX_NAME = 255


@router.post("", status_code=201)
def create_dataset(components: ComponentsDep, tenant: Manager, body: Named) -> DatasetOut:
    """Makes an empty data set. Photos are uploaded to it afterwards."""
    return DatasetOut.of(components.records.datasets.create(tenant, body.name))


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
def upload_images(
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
    labels = _Labels(components.clip, components.records.datasets.get(tenant, dataset).labels)
    accepted, rejected, duplicates = 0, [], []
    new: list[str] = []
    upload, warnings = secrets.token_hex(8), list[str]()
    try:
        for item in _incoming(components, labels, label, files or [], archive, warnings):
            outcome = _store(components, tenant, dataset, labels, item, upload, warnings)
            if isinstance(outcome, Rejected):
                rejected.append(outcome)
                continue
            accepted += 1
            if outcome.new:
                new.append(outcome.digest)
            else:
                duplicates.append(_path(item))
    except (Invalid, OverQuota, TooLarge):  # all of an upload or, as its answer says, nothing
        components.records.datasets.undo(tenant, dataset, upload, new)
        raise
    components.records.datasets.confirm(tenant, dataset, upload, new)
    if not accepted:
        problems = [Problem(r.file, r.reason) for r in rejected]
        raise Invalid("no picture was good", *(problems or [Problem("files", "none were sent")]))
    return UploadOut(
        accepted=accepted,
        rejected=[RejectedOut(file=r.file, reason=r.reason) for r in rejected],
        duplicates=duplicates,
        labels=components.records.datasets.get(tenant, dataset).labels,
        warnings=warnings,
    )


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
def get_image(
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
    found = components.records.datasets.image(tenant, dataset, image)
    headers = {
        "ETag": f'"{found.digest}-{size or "whole"}"',
        "Cache-Control": "private, max-age=31536000, immutable",  # its name is that of its bytes
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    data = components.records.datasets.data(tenant, dataset, found.digest)
    if size is None:
        return Response(data, media_type=media_type(data), headers=headers)
    small = thumbnail(data, size, image_limits(components.settings))
    return Response(small, media_type="image/jpeg", headers=headers)


@router.patch("/{dataset}/images/{image}")
def move_image(
    components: ComponentsDep, tenant: Manager, dataset: DatasetPath, image: ImagePath, body: MoveIn
) -> ImageOut:
    """Moves a photo to another class of the data set."""
    present = components.records.datasets.image(tenant, dataset, image).label
    known = components.records.datasets.get(tenant, dataset).labels
    others = (label for label in known if label != present)  # so that a class can be renamed
    label = _Labels(components.clip, others).take(body.label)
    return ImageOut.of(components.records.datasets.move(tenant, dataset, image, label))


@router.delete("/{dataset}/images/{image}", status_code=204)
def delete_image(
    components: ComponentsDep, tenant: Manager, dataset: DatasetPath, image: ImagePath
) -> None:
    """Deletes one photo."""
    components.records.datasets.image(tenant, dataset, image)
    components.records.datasets.remove(tenant, dataset, image)


class _Labels:
    """The labels of a data set, to which an upload adds."""

    def __init__(self, clip: FrozenCLIP, known: Iterable[str]) -> None:
        self._clip = clip
        self._known: dict[tuple[int, ...], str] = {}
        for label in known:
            with suppress(BadClasses):  # an earlier release took longer ones
                self._known[clip.prompt_ids(label)] = label

    def take(self, label: str) -> str:
        """A label's normal form, or the form in which the data set has it already.

        Raises:
            Invalid: empty, too long, not printable, or read by the model as another label is.
        """
        name = normal_name(label)
        if not name or len(label) > MAX_NAME or has_control(label):
            reason = f"{label[:120]!r} is not 1 to {MAX_NAME} printable characters"
            raise Invalid("a label cannot be used", Problem("label", reason))
        try:
            known = self._known.setdefault(self._clip.prompt_ids(name), name)
        except BadClasses as error:
            raise Invalid("a label is too long", Problem("label", str(error))) from error
        if normal_name(known) != name:
            reason = f"{name!r} reads the same to the model as {known!r}, which is there already"
            raise Invalid("two labels read the same", Problem("label", reason))
        return known


def _incoming(
    components: Components,
    labels: _Labels,
    label: str | None,
    files: list[UploadFile],
    archive: UploadFile | None,
    warnings: list[str],
) -> Iterable[Sample | Rejected]:
    if (archive is None) == (not files):
        raise Invalid(
            "send either files with a label, or one archive", Problem("files", "required")
        )
    if archive is not None:
        settings = components.settings
        limits = ArchiveLimits(
            settings.max_archive_entries, settings.max_archive_bytes, settings.max_image_bytes
        )
        return read_archive(archive.file, limits, warnings.append)
    if label is None:
        raise Invalid("files need a label", Problem("label", "required"))
    return _labelled(labels.take(label), files)


def _labelled(label: str, files: list[UploadFile]) -> Iterator[Sample]:
    for file in files:
        yield Sample(label, (file.filename or "")[-_MAX_NAME:], file.file.read())


def _store(
    components: Components,
    tenant: str,
    dataset: str,
    labels: _Labels,
    item: Sample | Rejected,
    upload: str,
    warnings: list[str],
) -> Added | Rejected:
    """Where the picture is stored, or why it is not."""
    if isinstance(item, Rejected):
        return item
    name = _path(item)
    said: list[str] = []
    try:
        limits = image_limits(components.settings)
        decode_image(item.data, components.clip.spec, limits, said.append)
        item = replace(item, label=labels.take(item.label))
    except BadImage as error:
        return Rejected(name, str(error))
    except Invalid as error:
        return Rejected(name, "; ".join(problem.reason for problem in error.problems))
    added = components.records.datasets.add(tenant, dataset, item, upload)
    if added.label != item.label:
        return Rejected(name, f"the same picture is in class {added.label!r}")
    warnings += (f"{name}: {text}" for text in said)
    return added


def _path(item: Sample | Rejected) -> str:
    return item.file if isinstance(item, Rejected) else str(PurePosixPath(item.label) / item.name)
