"""/classify and /v1/embeddings."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, QueryParams, UploadFile

from service.errors import Invalid, Problem, TooLarge, problems_of
from service.http.auth import Admitted, ComponentsDep, CurrentTenant, refuse_early
from service.http.disconnect import unless_gone
from service.http.middleware import media_type_of
from service.http.schemas import (
    ClassifyIn,
    ClassifyOptions,
    ClassifyOut,
    EmbeddingOut,
    EmbeddingsIn,
    EmbeddingsOut,
    ImageIn,
    ModelOut,
    ModelsOut,
    PredictionOut,
    ResultOut,
    UsageOut,
    inlined,
)
from service.inference.admission import Admission
from service.inference.classifier import Answer, Question, Upload, default_template
from service.records.adapters import Version
from service.wiring import Components

_MAX_VALUES = 20_000  # of a JSON body: a thousand names and pictures have a few thousand
_LARGE_JSON = 2**20  # bytes that are parsed in a few milliseconds
_FROM_URL_SAFE = str.maketrans("-_", "+/")
M = TypeVar("M", bound=BaseModel)

router = APIRouter(tags=["classify"], dependencies=[Depends(refuse_early)])

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "example": ["@photo.jpg"],
        },
        "classes": {
            "type": "array",
            "items": {"type": "string"},
            "description": "repeated, a JSON list, or text by commas or lines; at least two names;"
            " unset: the adapter's training classes",
            "example": ["rose", "tulip", "thistle"],
        },
        "adapter": {"type": "string", "description": "unset: zero-shot", "example": "flowers"},
        "version": {"type": "integer", "description": "unset: the live one"},
        "template": {
            "type": "array",
            "items": {"type": "string", "example": "a photo of a {}."},
            "description": "repeated: a class's feature is the mean over its prompts",
        },
        "top_k": {"type": "integer", "description": "only so many predictions, the best"},
        "min_score": {"type": "number", "description": "label is null below it"},
    },
}
_BODY = {
    "parameters": [  # every option may stand in the query instead
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in _FORM["properties"].items()
        if name != "files"
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": inlined(ClassifyIn)},
        },
    },
}


@router.post("/classify", summary="Classify, by its older path", openapi_extra=_BODY)
@router.post("/v1/classify", openapi_extra=_BODY)
async def classify(
    request: Request,
    response: Response,
    components: ComponentsDep,
    tenant: CurrentTenant,
    admission: Admitted,
) -> ClassifyOut:
    """Classifies photos for any class names, including ones the adapter was never trained on.

    Send multipart `files` or JSON `images`. Omit `classes` to use the adapter's training classes;
    omit `adapter` for zero-shot. A file that cannot be read has its own `error`.

    Every field but the photos may stand in the query instead.
    """
    body, files = await _read(request, components)
    version, answers = await answered(request, response, components, tenant, admission, body, files)
    return ClassifyOut(
        model=components.clip.name,
        precision=components.precision,
        adapter=version.adapter if version else None,
        version=version.number if version else None,
        artifact_sha256=version.sha256 if version else None,
        results=[_result(answer) for answer in answers],
    )


async def answered(
    request: Request,
    response: Response,
    components: Components,
    tenant: str,
    admission: Admission,
    options: ClassifyOptions,
    files: Sequence[Upload],
) -> tuple[Version | None, list[Answer]]:
    """Classifies what a request holds: the one way from its pictures to their answers.

    Args:
        request: whose body has been read; the work ends when its client has gone.
        response: gets the headers that name the version.
        components: of this application.
        tenant: who asks.
        admission: of this request.
        options: which adapter, which names, and how.
        files: the pictures.

    Returns:
        The version that answered, None for zero-shot, and the answers in the order of the files.

    Raises:
        NotFound, Conflict: there is no such adapter or version, or none is live.
        Invalid, BadClasses, TooLarge, TooMany, Unavailable: as the classifier says.
        ClientGone: nobody waits for the answer any more.
    """
    version = await _version(components, tenant, options.adapter, options.version)
    question = _question(tenant, version, options)
    answers, lease = await unless_gone(
        request, components.classifier.classify(question, files, admission)
    )
    if version:
        response.headers["x-adapter-cache"] = lease.tier
        response.headers["x-adapter-version"] = str(version.number)
    return version, answers


_EMBEDDINGS = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": inlined(EmbeddingsIn)}},
    }
}


@router.post("/v1/embeddings", openapi_extra=_EMBEDDINGS)
async def embeddings(
    request: Request,
    response: Response,
    components: ComponentsDep,
    tenant: CurrentTenant,
    admission: Admitted,
) -> EmbeddingsOut:
    """Answers with the features of texts and photos, in OpenAI's response shape."""
    body = await _read_json(request, EmbeddingsIn)
    version = await _version(components, tenant, body.adapter, body.version)
    given = [body.input] if isinstance(body.input, str) else body.input
    inputs = [_text_or_picture(i, text) for i, text in enumerate(given)]
    features, tokens = await components.classifier.embed(tenant, version, inputs, admission)
    if version:
        response.headers["x-adapter-version"] = str(version.number)
    return EmbeddingsOut(
        model=components.clip.name,
        adapter=version.adapter if version else None,
        version=version.number if version else None,
        data=[EmbeddingOut(index=i, embedding=_numbers(f, body)) for i, f in enumerate(features)],
        usage=UsageOut(prompt_tokens=tokens, total_tokens=tokens),
    )


@router.get("/v1/models")
async def models(components: ComponentsDep, tenant: CurrentTenant) -> ModelsOut:
    """Names the one CLIP that all tenants share, in OpenAI's shape."""
    return ModelsOut(data=[ModelOut(id=components.clip.name)])


def _numbers(feature: NDArray[np.float32], body: EmbeddingsIn) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(feature.astype("<f4").tobytes()).decode()
    return feature.tolist()  # type: ignore[no-any-return]


async def _version(
    components: Components, tenant: str, adapter: str | None, number: int | None
) -> Version | None:
    """Without an adapter, zero-shot; with one, that one or an error, never another."""
    if adapter is None:
        if number is not None:
            raise Invalid("a version needs its adapter", Problem("adapter", "required"))
        return None
    return await run_in_threadpool(
        components.versions,
        (tenant, adapter, number),
        lambda: components.records.adapters.version(tenant, adapter, number),
    )


def _question(tenant: str, version: Version | None, body: ClassifyOptions) -> Question:
    if body.classes is None and version is None:
        raise Invalid("zero-shot needs class names", Problem("classes", "required"))
    classes = tuple(body.classes if body.classes is not None else version.classes)  # type: ignore[union-attr]
    given = body.template or default_template(version)
    templates = (given,) if isinstance(given, str) else tuple(given)
    return Question(
        tenant=tenant,
        version=version,
        classes=classes,
        templates=templates,
        top_k=body.top_k,
        min_score=body.min_score,
    )


def _result(answer: Answer) -> ResultOut:
    predictions = [PredictionOut(label=label, score=score) for label, score in answer.predictions]
    return ResultOut(
        file=answer.file,
        label=answer.label,
        predictions=predictions,
        error=answer.error,
        warning=answer.warning,
    )


async def _read(
    request: Request, components: Components
) -> tuple[ClassifyOptions, Sequence[Upload]]:
    """The options and the pictures. Options may stand in the query, too, but only once in all."""
    asked = _asked(request)
    options, files = await _read_body(request, components)
    if twice := options.model_fields_set & asked.model_fields_set:
        problems = (Problem(name, "in the query and in the body") for name in sorted(twice))
        raise Invalid("an option was sent twice", *problems)
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    return options.model_copy(update=given), files


def _asked(request: Request) -> ClassifyOptions:
    """The options that the query holds. Other parameters are ignored, as everywhere."""
    fields = _fields(request.query_params)
    known = {name: fields[name] for name in ClassifyOptions.model_fields if name in fields}
    try:
        return ClassifyOptions.model_validate(known)
    except ValidationError as error:
        raise _invalid(error) from error


async def _read_body(
    request: Request, components: Components
) -> tuple[ClassifyIn, Sequence[Upload]]:
    media_type = media_type_of(request.headers)
    if media_type == "multipart/form-data":
        return await _read_form(request, components)
    if media_type == "application/json":
        body = await _read_json(request, ClassifyIn)
        if len(body.images) > components.settings.max_images:
            most = components.settings.max_images
            raise TooLarge(f"{len(body.images)} pictures, more than the {most} allowed")
        return body, await run_in_threadpool(_pictures, body.images)
    raise Invalid(
        "send multipart/form-data or application/json", Problem("content-type", repr(media_type))
    )


async def _read_json(request: Request, schema: type[M]) -> M:
    """A JSON body by its schema; a large one on another thread, since it takes the parser long.

    Raises:
        Invalid: more values than any right body has, broken JSON, or what the schema refuses.
    """
    data = await request.body()
    if len(data) > _LARGE_JSON:
        return await run_in_threadpool(_parsed, schema, data)
    return _parsed(schema, data)


def _parsed(schema: type[M], data: bytes) -> M:
    values = 0
    for start in range(0, len(data), _LARGE_JSON):  # in parts: others run between them
        values += sum(map(data[start : start + _LARGE_JSON].count, (b",", b"[", b"{")))
    if values > _MAX_VALUES:
        raise Invalid("the body holds too many values", Problem("body", f"over {_MAX_VALUES:,}"))
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> Invalid:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return Invalid("the request is not valid", *problems_of(found))


def _pictures(images: Sequence[ImageIn]) -> list[Upload]:
    return [
        Upload(image.file or f"images[{i}]", _base64(image.b64, f"images[{i}].b64"))
        for i, image in enumerate(images)
    ]


async def _read_form(
    request: Request, components: Components
) -> tuple[ClassifyIn, Sequence[Upload]]:
    settings = components.settings
    async with request.form(
        max_files=4 * settings.max_images, max_fields=settings.max_classes + 100
    ) as form:
        uploads = [item for item in form.getlist("files") if isinstance(item, UploadFile)]
        files = [
            Upload(item.filename or f"files[{i}]", await item.read())
            for i, item in enumerate(uploads)
        ]
        try:
            return ClassifyIn.model_validate(_fields(form)), files
        except ValidationError as error:
            raise _invalid(error) from error


def _fields(form: FormData | QueryParams) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value for name, value in form.items() if name not in ("files", "classes", "template")
    }
    if classes := form.getlist("classes"):
        fields["classes"] = classes
    if templates := form.getlist("template"):
        fields["template"] = templates
    return fields


def _text_or_picture(index: int, item: str) -> str | Upload:
    if not item.startswith("data:"):
        if not item.strip():
            raise Invalid("an input is empty", Problem(f"input[{index}]", "empty"))
        return item
    head, _, data = item.partition(",")
    if not head.endswith(";base64"):
        raise Invalid("a data URI must be base64", Problem(f"input[{index}]", "not base64"))
    return Upload(f"input[{index}]", _base64(data, f"input[{index}]"))


def _base64(text: str, field: str) -> bytes:
    """Bytes of base64 in any dialect: RFC 4648's two alphabets, line breaks, no padding, data URI.

    Raises:
        Invalid: it is none of these.
    """
    if text.lstrip()[:5].lower() == "data:":
        text = text.partition(",")[2]
    packed = "".join(text.split()).rstrip("=").translate(_FROM_URL_SAFE)
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("a picture is not base64", Problem(field, "not base64")) from error
