"""Rows about the service: HTTP, tenants, tiers."""

import asyncio
import io
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from adapters.artifact import Artifact, Manifest, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.pixels import decode_image
from service.fair_threads import FairThreads
from service.inference.backends import open_backend
from service.inference.choice import choose
from service.inference.classifier import Classifier, Limits, Question, Upload
from service.inference.engine import Engine
from service.inference.engine import Row as EngineRow
from service.inference.tiers import Tiers
from service.records.adapters import Version, version_of
from service.settings import Settings
from service.wiring import batch_size, image_limits
from tests.benchmarks import naive
from tests.benchmarks.clients import Caller
from tests.benchmarks.compare import Row, rates
from tests.benchmarks.model import clip_of, empty_bank, resident_bytes
from tests.support.api import Api, start_api
from tests.support.random_adapters import random_weights
from training.fit import default_settings

T = TypeVar("T")

CLIENTS, TENANTS, FLOODS = 16, 32, 5
SLOTS, HOST_ADAPTERS = 64, 256
CLASSES = ("crab", "cup", "dolphin", "ewer", "lotus", "starfish", "umbrella", "wild cat")


def photo(seed: int) -> bytes:
    """A JPEG of 320×240 with structure, as small photos have."""
    low = np.random.default_rng(seed).integers(0, 255, (15, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(low).resize((320, 240), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def classify_http_vs_engine(settings: Settings) -> Iterator[Row]:
    """16 clients over HTTP, against rows of the same pictures put straight into the engine."""
    for name, suffix, requests, target in (
        ("ViT-B-16", "", 32, 0.8),
        ("bundled", "_bundled", 256, None),
    ):
        clip = clip_of(name)
        with running(settings, clip) as api, elsewhere() as processes:
            caller = _caller(api)
            pixels = [decode_image(data, clip.spec) for data in caller.pictures]
            over_http = partial(_wait, processes, caller.burst, CLIENTS, requests)
            yield rates(
                f"classify_http_vs_engine{suffix}",
                over_http,
                partial(_engine_alone, api.components.engine, pixels, requests),
                requests,
                n=3,
                target=target,
                note=f"{name}, {CLIENTS} clients, backend {api.components.backend}",
            )


def _engine_alone(engine: Engine, pixels: Sequence[np.ndarray], requests: int) -> None:
    rows = [EngineRow("t", 0, pixels[i % len(pixels)]) for i in range(requests)]
    engine.submit(rows)
    for row in rows:
        row.future.result()


def _caller(api: Api) -> Caller:
    key = api.new_tenant().http.headers["authorization"].removeprefix("Bearer ")
    return Caller(api.url, key, [photo(i) for i in range(CLIENTS)], CLASSES)


@contextmanager
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """Two processes for clients, started before anything is timed."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(time.sleep, [1.0, 1.0]))
        yield processes


def _wait(processes: ProcessPoolExecutor, work: Callable[..., T], *given: object) -> T:
    return processes.submit(work, *given).result()


@contextmanager
def running(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    yield from start_api(settings, clip)


def classify_vs_naive_swap(settings: Settings) -> Iterator[Row]:
    clip = clip_of("bundled")
    shelf = Shelf(clip, TENANTS)
    pictures = [photo(i) for i in range(TENANTS)]
    server = naive.SwappingServer(clip, empty_bank(clip, 2))

    def theirs() -> None:
        for i in range(TENANTS):
            server.classify(shelf.fetch(shelf.version(i).path), pictures[i], CLASSES)

    with asyncio.Runner() as runner, serving(settings, clip, shelf, TENANTS + 1) as classifier:

        async def all_tenants() -> None:
            asked = (_classify(classifier, shelf.version(i), pictures[i]) for i in range(TENANTS))
            await asyncio.gather(*asked)

        yield rates(
            "classify_vs_naive_swap",
            lambda: runner.run(all_tenants()),
            theirs,
            TENANTS,
            n=5,
            target=2.0,
            note=f"bundled, {TENANTS} tenants in turn, {len(CLASSES)} names; naive: torch",
        )


async def _classify(classifier: Classifier, version: Version, picture: bytes) -> object:
    question = Question(
        tenant=version.tenant,
        version=version,
        classes=CLASSES,
        templates=(version.template,),
        top_k=None,
        min_score=None,
    )
    with classifier.engine.admitted(version.tenant) as admission:
        return await classifier.classify(question, [Upload("p.jpg", picture)], admission)


def ten_thousand_adapters_vs_one(settings: Settings) -> Iterator[Row]:
    """Pictures of 16 clients, each on an adapter drawn anew, both tiers full before the first."""
    for name, suffix, requests, target in (
        ("ViT-B-16", "", 48, 0.85),
        ("bundled", "_bundled", 256, None),
    ):
        clip = clip_of(name)
        shelf, picture = Shelf(clip, 10_000), photo(0)
        ranks = 1 / np.arange(1, 10_001)
        draws = {"zipf": ranks / ranks.sum(), "uniform": np.full(10_000, 1e-4)}
        with asyncio.Runner() as runner, serving(settings, clip, shelf, SLOTS + 1) as classifier:
            load = partial(_lease_all, classifier, shelf)
            embed = partial(_embed_all, classifier, shelf, picture)
            runner.run(load(range(SLOTS + HOST_ADAPTERS)))
            for law, weights in draws.items():
                draw = partial(_draw, np.random.default_rng(0), weights)
                runner.run(load(draw(300)))  # tiers and buffers as they are after a while
                runner.run(embed(draw(requests)))
                before = resident_bytes()
                row = rates(
                    f"ten_thousand_adapters_vs_one{suffix}" + ("" if law == "zipf" else "_uniform"),
                    lambda embed=embed, draw=draw, k=requests: runner.run(embed(draw(k))),
                    lambda embed=embed, k=requests: runner.run(embed([0] * k)),
                    requests,
                    n=3,
                    target=target if law == "zipf" else None,
                )
                grown = (resident_bytes() - before) / 2**20
                note = f"{name}, {SLOTS} slots, drawn by {law}; memory grew by {grown:.0f} MiB"
                yield Row(**(row.to_dict() | {"note": note}))


def _draw(generator: np.random.Generator, weights: np.ndarray, n: int) -> list[int]:
    return [int(i) for i in generator.choice(len(weights), n, p=weights)]


async def _lease_all(classifier: Classifier, shelf: "Shelf", numbers: Sequence[int]) -> None:
    for number in numbers:
        async with classifier.lease(shelf.version(number)):
            pass


async def _embed_all(
    classifier: Classifier, shelf: "Shelf", picture: bytes, numbers: Sequence[int]
) -> None:
    places = asyncio.Semaphore(CLIENTS)

    async def one(number: int) -> None:
        async with places:
            version = shelf.version(number)
            with classifier.engine.admitted(version.tenant) as admission:
                sent = [Upload("p.jpg", picture)]
                await classifier.embed(version.tenant, version, sent, admission)

    await asyncio.gather(*map(one, numbers))


def flood_vs_quiet(settings: Settings) -> Iterator[Row]:
    """A tenant of 4 clients beside one of 32 who never pause: the quiet one's 95th percentile."""
    clip = clip_of("bundled")
    with running(settings, clip) as api:
        calm, flooding = _caller(api), _caller(api)
        with elsewhere() as processes:
            ask = partial(_wait, processes, calm.p95, 4, 160)
            ask()
            ratios, quiet, loud = [], [], []
            for _ in range(FLOODS):
                quiet.append(ask())
                flood = processes.submit(flooding.flood, 32, 30.0)
                time.sleep(2.0)
                loud.append(ask())
                assert not flood.done()
                flood.result()
                ratios.append(quiet[-1] / loud[-1])
        yield Row(
            "quiet_p95_vs_under_a_flood",
            statistics.median(ratios),
            statistics.median(loud),
            statistics.median(quiet),
            "ms",
            FLOODS,
            max(ratios) - min(ratios),
            0.5,
            f"bundled, 4 clients, beside another tenant's 32, backend {api.components.backend}",
        )


def publish_to_first_answer(settings: Settings) -> Iterator[Row]:
    """From sending the publish to the first answer on the new version, whose file no server has."""
    clip = clip_of("bundled")
    with running(settings, clip) as api:
        tenant, picture = api.new_tenant(), photo(0)
        adapters = api.components.records.adapters
        shelf = Shelf(clip, 12)
        seconds = []
        for i in range(11):
            manifest = replace(shelf.manifest(i), tenant=tenant.tenant, adapter="a", version=i + 1)
            weights = random_weights(clip, i)
            adapters.add(manifest, encode_artifact(Artifact(manifest, weights)))
            start = time.perf_counter()
            tenant.call("PUT", "/v1/adapters/a/live", json={"version": i + 1})
            answer = tenant.classify([("p.jpg", picture)], None, "a")
            assert answer["version"] == i + 1
            seconds.append(time.perf_counter() - start)
        ms = 1000 * statistics.median(seconds[1:])
        note = "bundled, 8 class names, one client over HTTP: load, text and picture included"
        yield Row("publish_to_first_answer", None, ms, None, "ms", 10, None, None, note)


class Shelf:
    """An object store in memory that makes the artifact of any of n tenants from one template: the
    same file but for its tenant and one weight, so that 10,000 take no room.
    """

    def __init__(self, clip: FrozenCLIP, n: int) -> None:
        self._clip, self._weights, self._n = clip, random_weights(clip, 0), n
        self._versions: dict[int, Version] = {}

    def manifest(self, i: int) -> Manifest:
        place = default_settings(self._clip).adapter
        return Manifest(
            clip=self._clip.name,
            fingerprint=self._clip.fingerprint,
            tenant=f"t{i}",
            adapter="a",
            version=1,
            classes=CLASSES,
            template="a {}",
            logit_scale=100.0,
            image_first=place.image_first,
            text_first=place.text_first,
            created_at="now",
        )

    def version(self, i: int) -> Version:
        if i not in self._versions:
            self._versions[i] = version_of(self.manifest(i), self._file(i))
        return self._versions[i]

    def fetch(self, path: str) -> bytes:
        return self._file(int(path.split("/")[1].removeprefix("t")))

    def _file(self, i: int) -> bytes:
        image = self._weights.image
        up_bias = image.up_bias.clone()
        up_bias[0, 0] = i / self._n
        weights = replace(self._weights, image=replace(image, up_bias=up_bias))
        return encode_artifact(Artifact(self.manifest(i), weights))


@contextmanager
def serving(settings: Settings, clip: FrozenCLIP, shelf: Shelf, slots: int) -> Iterator[Classifier]:
    """A classifier over the shelf, behind it the backend that the service would take."""
    batch = batch_size(settings, clip)
    settings, clip = choose(settings, clip, batch)
    bank = empty_bank(clip, slots)
    engine = Engine(open_backend(settings, clip, bank, batch), batch, 4096)
    tiers = Tiers(engine, clip, slots, HOST_ADAPTERS, shelf.fetch)
    limits = Limits(image_limits(settings), 256, 1000, 600.0)
    engine.start()
    try:
        yield Classifier(clip, engine, tiers, limits, FairThreads(2, "decode"), 100_000)
    finally:
        engine.stop()
