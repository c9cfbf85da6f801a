"""The JSON of the HTTP contract."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.params import FitParams, Template, Text, Writable
from service.registry.adapters import Adapter, Version
from service.registry.datasets import Dataset, Image
from service.registry.jobs import Job
from service.registry.tenants import Key, Scope, Tenant

_MAX_WORDS = 1000  # characters; what CLIP reads ends at 77 tokens, a megabyte takes it seconds
Words = Annotated[str, Field(max_length=_MAX_WORDS), Writable]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S"), Writable]
FileName = Annotated[str, Field(max_length=300), Writable]
AdapterName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(_In):
    """A new tenant or data set."""

    name: Name


class TenantOut(BaseModel):
    tenant: str
    name: str
    created_at: str

    @classmethod
    def of(cls, tenant: Tenant) -> "TenantOut":
        return cls(tenant=tenant.id, name=tenant.name, created_at=tenant.created_at)


class KeyOut(BaseModel):
    """A tenant's new key, shown this once."""

    tenant: str
    api_key: str


class KeyIn(_In):
    scope: Scope = Field(
        "classify",
        description="classify: classify, embeddings, the list of adapters; manage: everything",
    )


class RotateIn(_In):
    scope: Scope = Field("manage", description="whose keys end, and what the new one may do")


class KeyInfoOut(BaseModel):
    """A key by its id; the key itself is not kept."""

    key_id: str
    scope: Scope
    created_at: str

    @classmethod
    def of(cls, key: Key) -> "KeyInfoOut":
        return cls(key_id=key.id, scope=key.scope, created_at=key.created_at)


class NewKeyOut(KeyInfoOut):
    """The key is shown this once."""

    api_key: str


class DatasetOut(BaseModel):
    dataset: str
    name: str
    created_at: str
    images: int
    labels: dict[str, int]

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetOut":
        return cls(
            dataset=dataset.id,
            name=dataset.name,
            created_at=dataset.created_at,
            images=sum(dataset.labels.values()),
            labels=dataset.labels,
        )


class ImageOut(BaseModel):
    """`image` is the SHA-256 of the picture as it was sent."""

    image: str
    label: str
    name: str
    bytes: int

    @classmethod
    def of(cls, image: Image) -> "ImageOut":
        return cls(image=image.digest, label=image.label, name=image.name, bytes=image.bytes)


class MoveIn(_In):
    label: Text = Field(description="the class that the picture goes to")


class RejectedOut(BaseModel):
    file: str
    reason: str


class UploadOut(BaseModel):
    accepted: int
    rejected: list[RejectedOut]
    duplicates: list[str] = Field(
        [], description="of the accepted, files whose picture was in that class already"
    )
    labels: dict[str, int]


class JobIn(_In):
    dataset: Text
    adapter: AdapterName
    params: FitParams = FitParams()
    publish: bool | Literal["if_better"] = True


class ProgressOut(BaseModel):
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


class JobOut(BaseModel):
    job: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    dataset: str
    adapter: str
    params: dict[str, Any]
    publish: bool | Literal["if_better"]
    progress: ProgressOut | None
    metrics: dict[str, Any] | None
    version: int | None
    published: bool | None
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None

    @classmethod
    def of(cls, job: Job) -> "JobOut":
        return cls(
            job=job.id,
            state=job.state,
            dataset=job.spec.dataset,
            adapter=job.spec.adapter,
            params=job.spec.params,
            publish=job.spec.publish,
            progress=ProgressOut(**job.progress) if job.progress else None,
            metrics=job.metrics,
            version=job.version if job.state == "succeeded" else None,
            published=job.published,
            error=job.error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class VersionOut(BaseModel):
    version: int
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
        return cls(
            version=version.number,
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
    adapter: str
    live: int | None
    versions: list[VersionOut]

    @classmethod
    def of(cls, adapter: Adapter) -> "AdapterOut":
        versions = [VersionOut.of(version, adapter.live) for version in adapter.versions]
        return cls(adapter=adapter.name, live=adapter.live, versions=versions)


class LiveIn(_In):
    version: int = Field(ge=1)


class ImageIn(_In):
    b64: str
    file: FileName | None = Field(None, description="a name for the answer")


class ClassifyIn(_In):
    """`classes` unset: the adapter's own. `adapter` unset: zero-shot."""

    images: list[ImageIn] = []
    classes: list[Words] | None = None
    adapter: Text | None = None
    version: int | None = Field(None, ge=1)
    template: Template | Annotated[list[Template], Field(max_length=100)] | None = Field(
        None, description="a list: a class's feature is the mean over its prompts"
    )
    top_k: int | None = Field(None, ge=1)
    min_score: float | None = Field(None, ge=0, le=1)


class PredictionOut(BaseModel):
    label: str
    score: float


class ResultOut(BaseModel):
    file: str
    label: str | None
    predictions: list[PredictionOut]
    error: str | None = None


class ClassifyOut(BaseModel):
    model: str
    adapter: str | None
    version: int | None
    artifact_sha256: str | None
    results: list[ResultOut]


class EmbeddingsIn(_In):
    """OpenAI's request shape; `input` holds texts, or pictures as data URIs."""

    input: Annotated[list[Text], Field(min_length=1, max_length=1000)] | Text
    adapter: Text | None = None
    version: int | None = Field(None, ge=1)
    model: Text | None = Field(None, description="read by clients of OpenAI's; there is one model")
    encoding_format: Literal["float"] = "float"

    @field_validator("input")
    @classmethod
    def _short(cls, given: list[str] | str) -> list[str] | str:
        for text in [given] if isinstance(given, str) else given:
            if len(text) > _MAX_WORDS and not text.startswith("data:"):
                raise ValueError(f"a text has at most {_MAX_WORDS} characters")
        return given


class EmbeddingOut(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float]


class UsageOut(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    object: Literal["list"] = "list"
    model: str
    adapter: str | None
    version: int | None
    data: list[EmbeddingOut]
    usage: UsageOut


class ProblemOut(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
