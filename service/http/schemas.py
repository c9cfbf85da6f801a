"""The JSON of the HTTP contract."""

import hashlib
import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from adapters.names import normal_name
from service.records.adapters import Adapter, Version
from service.records.datasets import Dataset, Image
from service.records.fit_params import FitParams, Shown, Template, Text, Writable
from service.records.jobs import Fit, Job
from service.records.quotas import Quota
from service.records.tenants import ApiKey, Scope, Tenant


def _named(text: str) -> str:
    if not (name := normal_name(text)):
        raise ValueError("empty; a name has at least one character that is seen")
    return name


_SHA256 = hashlib.sha256(b"an example").hexdigest()
_NAMES_EXAMPLE = 'such as ["rose", "tulip"] or rose,tulip'
_MAX_WORDS = 1000  # characters; what CLIP reads ends at 77 tokens, a megabyte takes it seconds
MAX_NAME = 100  # characters of a label, or of the name of a tenant or a data set
Words = Annotated[str, Field(max_length=_MAX_WORDS), Writable, Shown, AfterValidator(normal_name)]
Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME), Writable, Shown, AfterValidator(_named)
]
FileName = Annotated[str, Field(max_length=300), Writable, Shown]
AdapterName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _example(value: dict[str, Any]) -> ConfigDict:
    """Of a model, for the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [value]})


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema without `$defs`, whose references a route's own schema cannot hold."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            return whole(parts[name]) if name else {k: whole(v) for k, v in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    return whole(schema)  # type: ignore[no-any-return]


class Named(_In):
    """A new tenant or data set."""

    model_config = _example({"name": "flowers of our meadow"})

    name: Name


class DatasetIn(Named):
    """A new data set; `tags` are the ids that its classes have in the tool they come from."""

    tags: dict[Name, UUID] = Field(
        {},
        max_length=1000,
        description="UUIDs by class, which Custom Vision's clients get as `tagId` of an adapter",
    )


class QuotaOut(BaseModel):
    """How much of a quota is used."""

    model_config = _example({"used": 1280, "limit": 200_000})

    used: int
    limit: int


_QUOTAS = {
    "images": {"used": 1280, "limit": 200_000},
    "bytes": {"used": 402_653_184, "limit": 53_687_091_200},
    "record_bytes": {"used": 190_000, "limit": 268_435_456},
    "datasets": {"used": 3, "limit": 1000},
    "adapters": {"used": 2, "limit": 1000},
    "open_jobs": {"used": 0, "limit": 20},
}


class QuotasOut(BaseModel):
    """A tenant's quotas."""

    model_config = _example({"quotas": _QUOTAS})

    quotas: dict[str, QuotaOut] = Field(description="by what is counted; bytes as sent")

    @classmethod
    def of(cls, quotas: dict[str, Quota]) -> "QuotasOut":
        """The answer for what a tenant uses."""
        named = {name: QuotaOut(used=q.used, limit=q.limit) for name, q in quotas.items()}
        return cls(quotas=named)


class TenantOut(QuotasOut):
    """A tenant, as its administrator sees it."""

    model_config = _example(
        {
            "tenant": "tenant_0643a1b2c3d4e0123abcd",
            "name": "Meadow Ltd",
            "created_at": "2026-05-04T10:00:00.000Z",
            "quotas": _QUOTAS,
        }
    )

    tenant: str
    name: str
    created_at: str

    @classmethod
    def with_quotas(cls, tenant: Tenant, quotas: dict[str, Quota]) -> "TenantOut":
        """The answer for a tenant's record and what it uses."""
        about = {"tenant": tenant.id, "name": tenant.name, "created_at": tenant.created_at}
        return cls(**about, quotas=QuotasOut.of(quotas).quotas)


class KeyOut(BaseModel):
    """A tenant's new key, shown this once."""

    model_config = _example({"tenant": "tenant_0643a1b2c3d4e0123abcd", "api_key": "rma_Q2x…"})

    tenant: str
    api_key: str


class KeyIn(_In):
    """Which scope a new API key gets."""

    model_config = _example({"scope": "classify"})

    scope: Scope = Field(
        "classify",
        description="classify: classify, embeddings, the list of adapters; manage: everything",
    )


class RotateIn(_In):
    """Which scope the new API key gets."""

    model_config = _example({"scope": "manage"})

    scope: Scope = Field("manage", description="whose keys end, and what the new one may do")


class KeyInfoOut(BaseModel):
    """A key by its id; the key itself is not kept."""

    model_config = _example(
        {
            "key_id": "key_0643a1b2c3d4e0123abcd",
            "scope": "classify",
            "created_at": "2026-05-04T10:00:00.000Z",
            "last_used_at": "2026-05-05T09:30:00.000Z",
        }
    )

    key_id: str
    scope: Scope
    created_at: str
    last_used_at: str | None = Field(None, description="within a minute; null: not used in 90 days")

    @classmethod
    def of(cls, key: ApiKey, last_used: str | None = None) -> "KeyInfoOut":
        """The answer for an API key's record, and when it was last used."""
        return cls(
            key_id=key.id, scope=key.scope, created_at=key.created_at, last_used_at=last_used
        )


class NewKeyOut(KeyInfoOut):
    """The key is shown this once."""

    model_config = _example(
        {
            "key_id": "key_0643a1b2c3d4e0123abcd",
            "scope": "classify",
            "created_at": "2026-05-04T10:00:00.000Z",
            "api_key": "rma_Q2x…",
        }
    )

    api_key: str


class DatasetOut(BaseModel):
    """A data set and its number of photos per class."""

    model_config = _example(
        {
            "dataset": "dataset_0643a1b2c3d4e0123abcd",
            "name": "flowers of our meadow",
            "created_at": "2026-05-04T10:00:00.000Z",
            "images": 32,
            "labels": {"rose": 16, "tulip": 16},
        }
    )

    dataset: str
    name: str
    created_at: str
    images: int
    labels: dict[str, int]
    tags: dict[str, str] = Field({}, description="ids of classes in the tool they come from")

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetOut":
        """The answer for a data set's record."""
        return cls(
            dataset=dataset.id,
            name=dataset.name,
            created_at=dataset.created_at,
            images=sum(dataset.labels.values()),
            labels=dataset.labels,
            tags=dataset.tags,
        )


class ImageOut(BaseModel):
    """`image` is the SHA-256 of the picture as it was sent."""

    model_config = _example(
        {
            "image": _SHA256,
            "label": "rose",
            "name": "IMG_0001.jpg",
            "bytes": 183204,
        }
    )

    image: str
    label: str
    name: str
    bytes: int

    @classmethod
    def of(cls, image: Image) -> "ImageOut":
        """The answer for a photo's record."""
        return cls(image=image.digest, label=image.label, name=image.name, bytes=image.bytes)


class MoveIn(_In):
    """The class that a photo moves to."""

    model_config = _example({"label": "tulip"})

    label: Text = Field(description="the class that the picture goes to")


class RejectedOut(BaseModel):
    """A file that was not stored, and why."""

    file: str
    reason: str


class UploadOut(BaseModel):
    """What became of each file of an upload."""

    model_config = _example(
        {
            "accepted": 16,
            "rejected": [
                {
                    "file": "rose/notes.txt",
                    "reason": "not a picture in a known format (JPEG, PNG, WEBP, GIF, BMP)",
                }
            ],
            "labels": {"rose": 16},
            "duplicates": ["rose/IMG_0002.jpg"],
            "warnings": ["rose/IMG_0003.jpg: the JPEG is cut short: a little of it is missing"],
        }
    )

    accepted: int
    rejected: list[RejectedOut]
    duplicates: list[str] = Field(
        [], description="of the accepted, files whose picture was in that class already"
    )
    labels: dict[str, int]
    warnings: list[str] = Field(
        [], description="what may be wrong with what was taken: damaged photos, names in an archive"
    )


class JobIn(_In):
    """What to fit, and how."""

    model_config = _example(
        {"dataset": "dataset_0643a1b2c3d4e0123abcd", "adapter": "flowers", "publish": "if_better"}
    )

    dataset: Text
    adapter: AdapterName
    params: FitParams = FitParams()
    publish: bool | Literal["if_better"] = True
    fit: Fit = Field(
        "full",
        description="instant: photos are used by their features alone and nothing is trained, which"
        " takes seconds; full: such a version answers first, where none better is live, until the"
        " adapter is fitted",
    )


class ProgressOut(BaseModel):
    """How far a fit is."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    part: int | None = Field(
        None, description="which training this is; all but the last estimate the accuracy"
    )
    parts: int | None = Field(None, description="how many trainings the fit has")


Stage = Literal["reading", "instant", "estimating", "final"]


def _stage(job: Job) -> Stage | None:
    """The stage of a running job; of an adapter's fit, its last training is the final one."""
    if job.state != "running":
        return None
    if job.progress is None:
        return "instant" if job.stage == "instant" else "reading"
    part, parts = job.progress.get("part", 1), job.progress.get("parts", 1)
    return "estimating" if part < parts else "final"


class JobOut(BaseModel):
    """One fit and its state."""

    model_config = _example(
        {
            "job": "job_0643a1b2c3d4e0123abcd",
            "state": "running",
            "dataset": "dataset_0643a1b2c3d4e0123abcd",
            "adapter": "flowers",
            "params": {},
            "publish": "if_better",
            "fit": "full",
            "stage": "estimating",
            "progress": {
                "epoch": 12,
                "epochs": 300,
                "step": 36,
                "steps": 900,
                "loss": 0.41,
                "part": 1,
                "parts": 5,
            },
            "metrics": None,
            "version": None,
            "instant_version": 1,
            "published": None,
            "error": None,
            "created_at": "2026-05-04T10:00:00.000Z",
            "started_at": "2026-05-04T10:00:01.000Z",
            "finished_at": None,
        }
    )

    job: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    dataset: str
    adapter: str
    params: dict[str, Any]
    publish: bool | Literal["if_better"]
    fit: Fit
    stage: Stage | None = Field(description="what a running job does")
    progress: ProgressOut | None
    metrics: dict[str, Any] | None
    version: int | None
    instant_version: int | None = Field(
        description="the version that went live before the adapter was fitted"
    )
    published: bool | None
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None

    @classmethod
    def of(cls, job: Job) -> "JobOut":
        """The answer for a job's record."""
        return cls(
            job=job.id,
            state=job.state,
            dataset=job.spec.dataset,
            adapter=job.spec.adapter,
            params=job.spec.params,
            publish=job.spec.publish,
            fit=job.spec.fit,
            stage=_stage(job),
            progress=ProgressOut(**job.progress) if job.progress else None,
            metrics=job.metrics,
            version=job.version if job.state == "succeeded" else None,
            instant_version=job.instant_version,
            published=job.published,
            error=job.error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


_VERSION_EXAMPLE: dict[str, Any] = {
    "version": 2,
    "kind": "full",
    "live": True,
    "artifact_sha256": _SHA256,
    "bytes": 268704,
    "model": "ViT-B-16",
    "classes": ["rose", "tulip"],
    "template": "a photo of a {}.",
    "created_at": "2026-05-04T10:01:00.000Z",
    "metrics": {
        "adapted": {"accuracy": 0.97, "interval": [0.84, 0.99], "images": 32},
        "zero_shot": {"accuracy": 0.81, "interval": [0.65, 0.91], "images": 32},
    },
}


class VersionOut(BaseModel):
    """One fitted version of an adapter."""

    model_config = _example(_VERSION_EXAMPLE)

    version: int
    kind: Fit = Field(description="instant: of photos' features alone; full: with an adapter")
    live: bool
    artifact_sha256: str
    bytes: int
    model: str
    classes: list[str]
    template: str
    created_at: str
    metrics: dict[str, Any]

    @classmethod
    def of(cls, version: Version, live: int | None) -> "VersionOut":
        """The answer for a version's record; `live` is the number of the live version."""
        return cls(
            version=version.number,
            kind=version.kind,
            live=version.number == live,
            artifact_sha256=version.sha256,
            bytes=version.bytes,
            model=version.clip,
            classes=list(version.classes),
            template=version.template,
            created_at=version.created_at,
            metrics=version.metrics,
        )


class AdapterOut(BaseModel):
    """An adapter, its versions and which one is live."""

    model_config = _example(
        {
            "adapter": "flowers",
            "live": 2,
            "versions": [_VERSION_EXAMPLE],
        }
    )

    adapter: str
    live: int | None
    versions: list[VersionOut]

    @classmethod
    def of(cls, adapter: Adapter) -> "AdapterOut":
        """The answer for an adapter's record."""
        versions = [VersionOut.of(version, adapter.live) for version in adapter.versions]
        return cls(adapter=adapter.name, live=adapter.live, versions=versions)


class LiveIn(_In):
    """The version to make live."""

    model_config = _example({"version": 1})

    version: int = Field(ge=1)


def class_names(given: Any) -> Any:
    """Class names as clients write them: a list, a JSON list as text, or text by lines or commas.

    Args:
        given: what `classes` holds; a list of one text counts as that text.

    Returns:
        The names, trimmed; what is no text stays for the schema to refuse.

    Raises:
        ValueError: an object, a number, broken JSON, or fewer than two names.
    """
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, str):
        given = _split_names(given)
    if given == []:
        raise ValueError(f"no class names; give at least two, {_NAMES_EXAMPLE}")
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError(f"give at least two names, {_NAMES_EXAMPLE}")
    for i, name in enumerate(given):
        if not isinstance(name, str):
            raise ValueError(f"classes[{i}] is not text; give names {_NAMES_EXAMPLE}")
    return given


def _split_names(text: str) -> Any:
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"broken JSON; give {_NAMES_EXAMPLE}") from error
    lines = text.splitlines() if len(text.splitlines()) > 1 else text.split(",")
    return [name.strip() for name in lines if name.strip()]


class ImageIn(_In):
    """One picture, as base64."""

    b64: str
    file: FileName | None = Field(None, description="a name for the answer")


class ClassifyOptions(_In):
    """How photos are classified: all of a request but the photos."""

    classes: Annotated[
        Annotated[list[Words], Field(fail_fast=True)] | None,
        BeforeValidator(lambda given: None if given is None else class_names(given)),
    ] = Field(None, description="at least two names; unset: the adapter's training classes")
    adapter: Text | None = None
    version: int | None = Field(None, ge=1)
    template: Template | Annotated[list[Template], Field(max_length=100)] | None = Field(
        None, description="a list: a class's feature is the mean over its prompts"
    )
    top_k: int | None = Field(None, ge=1)
    min_score: float | None = Field(None, ge=0, le=1)


class ClassifyIn(ClassifyOptions):
    """Omit `classes` to use the adapter's training classes, `adapter` for zero-shot."""

    model_config = _example(
        {
            "images": [{"b64": "/9j/4AAQSkZJRg…", "file": "photo.jpg"}],
            "classes": ["rose", "tulip", "thistle"],
            "adapter": "flowers",
        }
    )

    images: Annotated[list[ImageIn], Field(fail_fast=True)] = []


class PredictionOut(BaseModel):
    """A class and its probability."""

    label: str
    score: float


class ResultOut(BaseModel):
    """The answer for one picture: its predictions, or its error."""

    file: str
    label: str | None
    predictions: list[PredictionOut]
    error: str | None = None
    warning: str | None = Field(None, description="what is wrong with a picture that was read")


class ClassifyOut(BaseModel):
    """The answers for all pictures, and the version that gave them."""

    model_config = _example(
        {
            "model": "ViT-B-16",
            "precision": "bf16",
            "adapter": "flowers",
            "version": 2,
            "artifact_sha256": _SHA256,
            "results": [
                {
                    "file": "photo.jpg",
                    "label": "rose",
                    "predictions": [
                        {"label": "rose", "score": 0.93},
                        {"label": "tulip", "score": 0.06},
                        {"label": "thistle", "score": 0.01},
                    ],
                    "error": None,
                    "warning": None,
                }
            ],
        }
    )

    model: str
    precision: Literal["fp32", "bf16", "int8"] = Field(description="in which the model runs")
    adapter: str | None
    version: int | None
    artifact_sha256: str | None
    results: list[ResultOut]


class TagPredictionOut(BaseModel):
    """A class and its probability, as Custom Vision names them."""

    probability: float
    tagId: str = Field(description="a UUID that stays the same for a class of an adapter")  # noqa: N815
    tagName: str  # noqa: N815
    tagType: Literal["Regular", "Negative"]  # noqa: N815


class ImagePredictionOut(BaseModel):
    """Custom Vision's answer for one picture: all classes, the most probable first."""

    model_config = _example(
        {
            "id": "3f76364c-b8ae-4818-a2b2-2794cfbe377a",
            "project": "5b3c9e4c-6b1f-4a7e-9f0d-0a1b2c3d4e5f",
            "iteration": "9a8b7c6d-5e4f-5a3b-8c2d-1e0f9a8b7c6d",
            "created": "2026-05-04T10:00:00.000Z",
            "predictions": [
                {
                    "probability": 0.93,
                    "tagId": "0c8a1b2d-3e4f-5a6b-9c8d-7e6f5a4b3c2d",
                    "tagName": "rose",
                    "tagType": "Regular",
                }
            ],
        }
    )

    id: str = Field(description="of this answer; nothing is kept under it")
    project: str = Field(description="as it was sent")
    iteration: str = Field(description="a UUID that stays the same for a version")
    created: str
    predictions: list[TagPredictionOut]


class CustomVisionErrorOut(BaseModel):
    """A refusal, as Custom Vision's clients read it."""

    model_config = _example(
        {"code": "NotFoundIteration", "message": "there is no adapter 'flowers'"}
    )

    code: str
    message: str


class EmbeddingsIn(_In):
    """OpenAI's request shape; `input` holds texts, or pictures as data URIs."""

    model_config = _example(
        {
            "input": ["a photo of a rose.", "data:image/jpeg;base64,/9j/4AAQSkZJRg…"],
            "adapter": "flowers",
        }
    )

    input: Annotated[list[Text], Field(min_length=1, max_length=1000, fail_fast=True)] | Text
    adapter: Text | None = None
    version: int | None = Field(None, ge=1)
    model: Text | None = Field(None, description="read by clients of OpenAI's; there is one model")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: float32 numbers, little-endian, as OpenAI's clients ask"
    )
    user: Text | None = Field(None, description="sent by clients of OpenAI's; not used")

    @field_validator("input")
    @classmethod
    def _short(cls, given: list[str] | str) -> list[str] | str:
        for text in [given] if isinstance(given, str) else given:
            if len(text) > _MAX_WORDS and not text.startswith("data:"):
                raise ValueError(f"a text has at most {_MAX_WORDS} characters")
        return given


class EmbeddingOut(BaseModel):
    """The embedding of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="text where base64 was asked for")


class UsageOut(BaseModel):
    """How many text tokens were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    """The embeddings, in the order of the inputs."""

    model_config = _example(
        {
            "object": "list",
            "model": "ViT-B-16",
            "adapter": "flowers",
            "version": 2,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.012, -0.034, 0.027]}],
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
    )

    object: Literal["list"] = "list"
    model: str
    adapter: str | None
    version: int | None
    data: list[EmbeddingOut]
    usage: UsageOut


class ModelOut(BaseModel):
    """A model in OpenAI's shape."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="not kept")
    owned_by: Literal["rmadapter"] = "rmadapter"


class ModelsOut(BaseModel):
    """The models in OpenAI's shape: the one CLIP that all tenants share."""

    model_config = _example(
        {
            "object": "list",
            "data": [{"id": "ViT-B-16", "object": "model", "created": 0, "owned_by": "rmadapter"}],
        }
    )

    object: Literal["list"] = "list"
    data: list[ModelOut]


class ProblemOut(BaseModel):
    """RFC 9457."""

    model_config = _example(
        {
            "type": "about:blank",
            "title": "Invalid request",
            "status": 422,
            "detail": "the request is not valid",
            "errors": [{"field": "classes", "reason": "required"}],
        }
    )

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
