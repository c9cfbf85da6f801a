"""Every setting of the service, once: `RMADAPTER_*` variables, secrets also from files."""

import os
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

_MIN_ADMIN_KEY = 24  # characters: nothing slows guesses down
_SECRETS = "/run/secrets"  # where Docker mounts them; RMADAPTER_SECRETS_DIR names another folder


class Settings(BaseSettings):
    """All settings, read once at the start and passed on.

    A setting without a variable is read from a file of its name, such as `rmadapter_admin_key`, in
    the folder of secrets. Such a secret is not in the container's own configuration. `up` passes
    its settings, secrets included, to its worker as environment variables.
    """

    model_config = SettingsConfigDict(
        env_prefix="RMADAPTER_", frozen=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, description="port that the API listens on")
    log_format: Literal["text", "json"] = Field("text", description="format of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is logged"
    )
    api_metrics_port: int = Field(
        0, description="where an API server serves its Prometheus metrics; 0: at /metrics"
    )
    worker_metrics_port: int = Field(
        0, description="where a worker serves its Prometheus metrics; 0: nowhere"
    )
    data_dir: Path = Field(
        Path.home() / ".rmadapter", description="where `up` keeps Redis, blobs and keys"
    )
    redis_url: str | None = Field(None, description="redis:// or unix://; unset: a private one")
    blob_url: str | None = Field(None, description="file:// or s3://; unset: in the data directory")
    admin_key: SecretStr | None = Field(None, description="unset: `up` makes one")
    redis_password: SecretStr | None = Field(
        None, description="password for a redis:// or rediss:// URL without one"
    )
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="key id for an s3:// blob_url; unset: AWS_* variables, or the machine's role",
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="its secret key")

    model: str = Field("bundled", description="'bundled', or an open_clip model such as ViT-B-16")
    pretrained: str | None = Field(None, description="its open_clip tag or weights file")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="auto: bf16 on CUDA, and on a CPU that multiplies bf16 where it is measured to"
        " be the fastest, else fp32; int8: on a CPU, 1.8 times as fast with ViT-B-16",
    )
    backend: Literal["auto", "torch", "onnx"] = Field(
        "auto",
        description="what runs the model; auto: torch on CUDA; on a CPU the fastest, measured once",
    )
    cache_dir: Path = Field(
        Path.home() / ".cache" / "rmadapter",
        description="where exported ONNX graphs are kept, and what was measured to be fastest",
    )

    bank_bytes: int = Field(256 * 2**20, description="device memory for adapters")
    bank_rank: int = Field(32, description="the largest rank an adapter may have")
    host_adapters: int = Field(1024, description="adapters kept in host memory behind the bank")
    pinned: str = Field(
        "",
        description="adapters that stay on the device once used: tenant/adapter, comma-separated",
    )
    text_features: int = Field(100_000, description="class features kept in memory")
    lower_prompts: int = Field(10_000, description="prompts whose lower blocks' output is kept")
    max_batch: int | None = Field(
        None, ge=1, description="pictures of one batch; unset: 32 on a GPU, 4 on a CPU"
    )
    max_queued_rows: int = Field(1024, description="rows waiting for the device, all tenants")
    max_queue_seconds: float = Field(
        2.0,
        description="longest expected wait of a tenant for the device; above it the answer is 429",
    )
    decode_threads: int = Field(
        4,
        ge=1,
        description="pictures decoded at once, of all tenants; each takes 8 bytes per pixel",
    )
    upload_threads: int = Field(8, ge=1, description="uploads read at once, of all tenants")
    request_seconds: float = Field(30.0, description="a classify request's deadline")
    drain_seconds: float = Field(
        3.0, description="`serve` after SIGTERM: goes on, while /readyz turns balancers away"
    )

    cors_origins: str = Field(
        "",
        description="origins whose pages may call the API from a browser, comma-separated; *: any",
    )
    path_prefix: str = Field(
        "", description="the path under which a proxy serves the API, such as /vision"
    )
    max_body_bytes: int = Field(256 * 2**20, description="bytes of a request's body")
    max_bytes_in_flight: int = Field(
        2**30,
        ge=2**20,
        description="bytes of bodies held at once, all requests; a tenant may have half",
    )
    max_image_bytes: int = Field(20 * 2**20, description="bytes of one picture's file")
    max_image_pixels: int = Field(50_000_000, description="pixels of one picture")
    max_images: int = Field(256, description="pictures of one classify request")
    fetch_urls: bool = Field(
        False, description="pictures are also fetched from URLs in requests, of public addresses"
    )
    fetch_private: bool = Field(
        False, description="also of private addresses: the server then asks its own network"
    )
    fetch_seconds: float = Field(
        10.0, gt=0, description="for one URL, with the names and redirects on its way"
    )
    max_classes: int = Field(1000, description="class names of one request")
    max_archive_entries: int = Field(20_000, description="files of one uploaded archive")
    max_archive_bytes: int = Field(2 * 2**30, description="bytes of one archive, unpacked")
    min_images: int = Field(1, description="photos per class that a fit needs")
    max_tenant_images: int = Field(200_000, description="pictures of one tenant")
    max_tenant_bytes: int = Field(50 * 2**30, description="bytes of one tenant's pictures")
    max_tenant_record_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="what Redis keeps in memory of one tenant's pictures and versions",
    )
    max_tenant_datasets: int = Field(1000, description="data sets of one tenant")
    max_tenant_adapters: int = Field(1000, description="adapters of one tenant")
    max_versions: int = Field(1000, description="versions of one adapter")
    max_tenant_keys: int = Field(100, description="API keys of one tenant")
    max_open_jobs: int = Field(20, description="jobs of one tenant that are queued or running")
    classify_rate: float = Field(
        200.0, ge=0, description="classify and embeddings calls of one tenant per second; 0: any"
    )
    classify_burst: int = Field(400, ge=1, description="such calls allowed at once after a pause")
    manage_rate: float = Field(
        100.0, ge=0, description="all other calls of one tenant per second; 0: any"
    )
    manage_burst: int = Field(400, ge=1, description="such calls allowed at once after a pause")
    max_fit_pictures: int = Field(
        5_000_000,
        ge=1,
        description="pictures that one fit processes, over all epochs; defaults are always allowed",
    )
    fit_bytes: int = Field(
        4 * 2**30,
        ge=2**20,
        description="a fit's photos between the frozen and the adapted blocks; further ones are"
        " used by their features alone",
    )
    fit_seconds: float = Field(4 * 3600.0, gt=0, description="a fit that takes longer fails")
    job_days: int = Field(30, ge=1, description="days for which an ended job is kept")
    max_ended_jobs: int = Field(
        1000, ge=1, description="ended jobs of one tenant that are kept; the oldest are dropped"
    )
    tenant_parallel_jobs: int = Field(2, description="jobs of one tenant that may run at once")

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and 0 < len(key.get_secret_value()) < _MIN_ADMIN_KEY:
            raise ValueError(f"an admin key has at least {_MIN_ADMIN_KEY} characters")
        return key

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of precedence: arguments, variables, files."""
        folder = Path(os.environ.get("RMADAPTER_SECRETS_DIR", _SECRETS))
        if not folder.is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, folder)

    def redis_address(self, default: str) -> str:
        """The Redis URL with the password in it."""
        given = self.redis_url or default
        url = urlsplit(given)
        secret = self.redis_password.get_secret_value() if self.redis_password else ""
        if not secret or url.password or url.scheme not in ("redis", "rediss"):
            return given
        netloc = f"{url.username or ''}:{quote(secret, safe='')}@{url.netloc.rpartition('@')[2]}"
        return url._replace(netloc=netloc).geturl()

    def s3_keys(self) -> tuple[str, str] | None:
        """The id and the secret of the S3 store's key; None where one is unset or empty."""
        if not self.s3_access_key_id or not self.s3_secret_access_key:
            return None
        return (
            self.s3_access_key_id.get_secret_value(),
            self.s3_secret_access_key.get_secret_value(),
        )

    def pinned_adapters(self) -> frozenset[str]:
        """The pinned adapters, as `tenant/adapter`."""
        return frozenset(name.strip() for name in self.pinned.split(",") if name.strip())

    def allowed_origins(self) -> list[str]:
        """The origins that a browser lets call the API."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    def root_path(self) -> str:
        """The proxy's prefix, with a slash before it and none behind it; or nothing."""
        prefix = self.path_prefix.strip().strip("/")
        return f"/{prefix}" if prefix else ""

    def environment(self) -> dict[str, str]:
        """These settings as the environment of a child process."""
        plain = self.model_dump(exclude_none=True)
        return {
            f"RMADAPTER_{name.upper()}": (
                value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            )
            for name, value in plain.items()
        }
