"""What tests share: one CLIP, the carried photos, a real Redis, the service over real HTTP."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import uvicorn
from pydantic import SecretStr

from adapters.bank import AdapterWeights, export
from adapters.clip import FrozenCLIP, load_clip
from adapters.malloc import keep_freed_memory
from adapters.rmadapter import CLIPAdapters
from service.client import Client
from service.demo.__main__ import PHOTOS
from service.embedded.redis_server import RedisServer
from service.errors import TooMany
from service.http.app import create_app
from service.http.server import listen
from service.records.rates import Rate, Rates
from service.records.store import connect
from service.settings import Settings
from service.wiring import Services, open_services
from training.data import ImageSet, Sample, image_set, read_samples
from training.fit import default_settings

ADMIN_KEY = "an-admin-key-for-tests"
os.environ.setdefault("RMADAPTER_BACKEND", "torch")  # exporting to ONNX is for test_backends.py
SHARED = Path(__file__).parents[2] / "shared" / "data"


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
    """The carried photos: 8 classes, 24 each."""
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


def shared_file(name: str) -> Path:
    """A file of the shared data; says what is skipped without it."""
    file = SHARED / name
    if not file.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return file


def photo_folder(folder: Path, classes: Sequence[str], count: int) -> Path:
    """A folder a class, of the first `count` carried photos of each."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for photo in sorted((PHOTOS / name).iterdir())[:count]:
            shutil.copy(photo, folder / name)
    return folder


def coop_layout(folder: Path, classes: Sequence[str]) -> Path:
    """The carried photos of some classes in CoOp's layout, numbered as the classes are given: of
    each, three to train on, one in the validation split, two to test on."""
    split: dict[str, list[list[str | int]]] = {"train": [], "val": [], "test": []}
    photo_folder(folder / "jpg", classes, 6)
    for label, name in enumerate(classes):
        files = sorted(file.name for file in (folder / "jpg" / name).iterdir())
        for part, file in zip(
            ("train", "train", "train", "val", "test", "test"), files, strict=True
        ):
            split[part].append([f"{name}/{file}", label, name])
    (folder / "split_zhou_Flowers.json").write_text(json.dumps(split))
    return folder


def run_module(folder: Path, *command: str) -> str:
    """What `python -m COMMAND` prints, run in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def random_adapters(clip: FrozenCLIP, seed: int, **changes: int) -> CLIPAdapters:
    """Adapters with weights that matter, as if fitted."""
    settings = default_settings(clip)
    torch.manual_seed(seed)
    from dataclasses import replace

    adapters = CLIPAdapters(clip.image, clip.text, replace(settings.adapter, **changes))
    for name, parameter in adapters.named_parameters():
        if ".up." in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    return adapters.requires_grad_(False).to(clip.device)


def random_weights(clip: FrozenCLIP, seed: int, **changes: int) -> AdapterWeights:
    return export(random_adapters(clip, seed, **changes))


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


def away_from_workers(settings: Settings) -> str:
    """The same Redis, another database: what is queued there stays there to be looked at."""
    return settings.redis_url.replace("db=0", "db=1")


@dataclass(frozen=True, slots=True)
class Api:
    """A running API server."""

    url: str
    services: Services
    clients: ExitStack

    def admin(self) -> Client:
        return Client(self.url, ADMIN_KEY)

    def new_tenant(self, name: str = "a tenant") -> Client:
        with self.admin() as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": name})
        client = self.clients.enter_context(Client(self.url, made["api_key"]))
        client.tenant = made["tenant"]
        return client


def start_api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    """An API server on a free port, in a thread, over real HTTP."""
    services = open_services(settings, clip)
    listener = listen(settings)
    server = uvicorn.Server(uvicorn.Config(create_app(services), log_level="warning", http="h11"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_for(lambda: server.started)
    try:
        with ExitStack() as clients:
            yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", services, clients)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


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


def start_worker(
    settings: Settings, log: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A worker process that is ready for jobs."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "worker"],
            env={**os.environ, **settings.environment(), **(environment or {})},
            stdout=stream,
            stderr=stream,
        )
    wait_for(lambda: "worker ready" in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    return process


@pytest.fixture(scope="session")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    process = start_worker(settings, tmp_path_factory.mktemp("worker") / "log")
    yield
    process.terminate()
    process.wait(60)


def wait_for(condition, seconds: float = 120.0) -> None:
    """Until the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def rates(server: RedisServer, **kinds: Rate) -> Rates:
    return Rates(connect(server.url, 0.2), kinds)


def taken(limiter: Rates, tenant: str, kind: str) -> int:
    """Calls until one is refused."""
    for count in range(1000):
        try:
            limiter.take(tenant, kind)
        except TooMany:
            return count
    return 1000


def upload(client: Client, samples: list[Sample], name: str = "photos") -> str:
    """A data set of these samples."""
    dataset = client.create_dataset(name)
    for label in sorted({sample.label for sample in samples}):
        files = [("files", (s.name, s.data)) for s in samples if s.label == label]
        path = f"/v1/datasets/{dataset}/images"
        client.call("POST", path, data={"label": label}, files=files)
    return dataset


def run_job(client: Client, dataset: str, adapter: str, **options) -> dict:
    """Starts a fit and follows it to its end."""
    job = client.create_job(dataset, adapter, **options)
    for event in client.job_events(job["job"]):
        job = event
    return job


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of a new deployment, made as its administrator makes them."""
    folder = tmp_path_factory.mktemp("deployed") / "secrets"
    script = Path(__file__).parents[1] / "docker" / "make-secrets.sh"
    subprocess.run([script, folder], check=True)
    return folder
