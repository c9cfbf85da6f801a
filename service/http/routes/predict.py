"""Azure Custom Vision's prediction API; a published name is an adapter, an iteration its version.

Nothing is kept of a picture, so the two forms of a path, with and without `/nostore`, are one.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.datastructures import UploadFile

from adapters.errors import BadImage
from service.errors import BadUrl, Invalid, Problem
from service.http.auth import Admitted, ComponentsDep, CurrentTenant, refuse_early
from service.http.custom_vision import BASE
from service.http.fetching import Fetcher
from service.http.middleware import media_type_of
from service.http.paths import ProjectPath, PublishedNamePath
from service.http.routes.classify import answered
from service.http.schemas import (
    ClassifyOptions,
    CustomVisionErrorOut,
    ImagePredictionOut,
    TagPredictionOut,
)
from service.inference.classifier import Upload
from service.records.adapters import Version
from service.records.store import now

_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:rmadapter:custom-vision")
_NEGATIVE = "negative"  # the name, in small letters, of Custom Vision's tag for none of the others
_REFUSED: dict[str, Any] = {
    "model": CustomVisionErrorOut,
    "description": "refused; `code` is one of Custom Vision's",
}

router = APIRouter(
    tags=["custom vision"],
    dependencies=[Depends(refuse_early)],
    responses={"4XX": _REFUSED, "5XX": _REFUSED},
)

_PARAMETERS = [
    {
        "name": "Prediction-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "an API key of a tenant, where no Authorization is sent",
    },
    {
        "name": "application",
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": "sent by Custom Vision's clients; not used",
    },
]
_PICTURE: dict[str, Any] = {
    "type": "object",
    "required": ["imageData"],
    "properties": {
        "imageData": {"type": "string", "format": "binary", "example": "@photo.jpg"},
    },
}
_IMAGE = {
    "parameters": _PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _PICTURE},
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary", "example": "@photo.jpg"}
            },
        },
    },
}
_URL = {
    "parameters": _PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["Url"],
                    "properties": {
                        "Url": {"type": "string", "example": "https://example.org/photo.jpg"}
                    },
                }
            }
        },
    },
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all four calls are given beside their picture."""

    request: Request
    response: Response
    components: ComponentsDep
    tenant: CurrentTenant
    admission: Admitted
    project: ProjectPath
    published_name: PublishedNamePath


Asked = Annotated[_Asked, Depends()]


@router.post(
    f"{BASE}/image/nostore",
    name="classify_image_with_no_store",
    summary="Classify Image With No Store",
    openapi_extra=_IMAGE,
)
@router.post(f"{BASE}/image", openapi_extra=_IMAGE)
async def classify_image(asked: Asked) -> ImagePredictionOut:
    """Classifies one picture as Custom Vision does: a form's `imageData`, or the body itself.

    The case of the path does not matter, and `v3.0` is the same as `v3.1`.
    """
    return await _prediction(asked, Upload("imageData", await _picture(asked.request)))


@router.post(
    f"{BASE}/url/nostore",
    name="classify_image_url_with_no_store",
    summary="Classify Image Url With No Store",
    openapi_extra=_URL,
)
@router.post(f"{BASE}/url", openapi_extra=_URL)
async def classify_image_url(asked: Asked) -> ImagePredictionOut:
    """Classifies the picture that a URL leads to, where the server's settings allow it.

    It is fetched from public addresses alone, also behind redirects.
    """
    fetcher: Fetcher = asked.request.app.state.fetcher
    url = _url(await asked.request.body())
    return await _prediction(asked, Upload("url", await fetcher.fetch(asked.tenant, url)))


async def _picture(request: Request) -> bytes:
    """A form's file, whatever the part's name; of any other body all bytes."""
    if media_type_of(request.headers) != "multipart/form-data":
        return await request.body()
    async with request.form(max_files=4, max_fields=100) as form:
        for _, item in form.multi_items():
            if isinstance(item, UploadFile):
                return await item.read()
    raise Invalid("no picture was sent", Problem("imageData", "required"))


def _url(body: bytes) -> str:
    """The URL in a body: `Url`, in any case."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid("the body is not JSON", Problem("body", "not JSON")) from error
    fields = (
        {name.lower(): value for name, value in given.items()} if isinstance(given, dict) else {}
    )
    if not isinstance(url := fields.get("url"), str):
        raise BadUrl("no URL was sent", Problem("Url", "required"))
    return url


async def _prediction(asked: _Asked, picture: Upload) -> ImagePredictionOut:
    version, (answer,) = await answered(
        asked.request,
        asked.response,
        asked.components,
        asked.tenant,
        asked.admission,
        ClassifyOptions(adapter=asked.published_name),
        [picture],
    )
    assert version is not None  # an adapter was asked for
    if answer.error is not None:
        raise BadImage(answer.error)
    return ImagePredictionOut(
        id=str(uuid.uuid4()),
        project=asked.project,
        iteration=_id(version, str(version.number)),
        created=now(),
        predictions=[_tag(version, label, score) for label, score in answer.predictions],
    )


def _tag(version: Version, label: str, score: float) -> TagPredictionOut:
    return TagPredictionOut(
        probability=score,
        tagId=version.tags.get(label) or _id(version, "tag", label),
        tagName=label,
        tagType="Negative" if label.lower() == _NEGATIVE else "Regular",
    )


def _id(version: Version, *of: str) -> str:
    """A UUID that is the same for the same thing on every server and after every restart."""
    return str(uuid.uuid5(_IDS, json.dumps([version.tenant, version.adapter, *of])))
