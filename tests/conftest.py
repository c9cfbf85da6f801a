"""What tests share: one CLIP, the bundled photos, a real Redis, the service over real HTTP."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from adapters.clip import FrozenCLIP, load_clip
from adapters.malloc import keep_freed_memory
from service.demo.__main__ import PHOTOS
from service.embedded.redis_server import RedisServer
from service.settings import Settings
from tests.support.api import ADMIN_KEY, Api, start_api, start_worker
from tests.support.paths import ROOT
from tests.support.photos import shared_file
from training.data import ImageSet, Sample, image_set, read_samples

os.environ.setdefault("RMADAPTER_BACKEND", "torch")  # exporting to ONNX is for test_backends.py
os.environ.setdefault("RMADAPTER_PRECISION", "fp32")  # no measurement at each start


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="take the pictures of docs/console")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that was run in this process has its own logging, to a stream that is gone then."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.fixture(scope="session")
def clip() -> FrozenCLIP:
    keep_freed_memory()
    return load_clip()


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """The bundled photos: 8 classes, 24 each."""
    return list(read_samples(PHOTOS))


@pytest.fixture(scope="session")
def images(clip: FrozenCLIP, samples: list[Sample]) -> ImageSet:
    return image_set(samples, clip.spec)


@pytest.fixture(scope="session")
def few(images: ImageSet) -> ImageSet:
    """Six photos of each of three classes: enough to fit in a second or two."""
    rows = torch.cat([(images.labels == c).nonzero().squeeze(1)[:6] for c in range(3)])
    return ImageSet(images.pixels[rows], images.labels[rows], images.classes[:3])


@pytest.fixture(scope="session")
def caltech() -> Path:
    return shared_file("caltech101.zip")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the whole session, started here, on a private socket."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one test, which may end or empty it."""
    running = RedisServer(tmp_path / "redis")
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        port=0,
        redis_url=redis_url,
        blob_url=tmp_path_factory.mktemp("blobs").as_uri(),
        data_dir=tmp_path_factory.mktemp("data"),
        admin_key=SecretStr(ADMIN_KEY),
        max_body_bytes=30 * 2**20,
        max_image_pixels=4_000_000,
    )


@pytest.fixture
def api_alone(
    server: RedisServer, settings: Settings, clip: FrozenCLIP, tmp_path: Path
) -> Iterator["Api"]:
    """An API server on that Redis and blobs of its own."""
    own = {"redis_url": server.url, "blob_url": (tmp_path / "blobs").as_uri()}
    yield from start_api(settings.model_copy(update=own), clip)


@pytest.fixture(scope="session")
def api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from start_api(settings, clip)


@pytest.fixture(scope="session")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    process = start_worker(settings, tmp_path_factory.mktemp("worker") / "log")
    yield
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of a new deployment, made as its administrator makes them."""
    folder = tmp_path_factory.mktemp("deployed") / "secrets"
    script = ROOT / "docker" / "make-secrets.sh"
    subprocess.run([script, folder], check=True)
    return folder
