"""A version with a head answers by its photos, on both backends; one without answers as before."""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.artifact import Artifact, encode_artifact
from adapters.bank import Bank, export
from adapters.classify import scores
from adapters.clip import FrozenCLIP
from adapters.evidence import probabilities
from adapters.pixels import ImageLimits
from adapters.rmadapter import CLIPAdapters
from service.fair_threads import FairThreads
from service.inference.admission import Admission
from service.inference.classifier import Answer, Classifier, Limits, Question, Upload
from service.inference.engine import Engine
from service.inference.onnx_backend import OnnxBackend
from service.inference.protocol import Backend
from service.inference.tiers import Tiers
from service.inference.torch_backend import TorchBackend
from service.records.adapters import Version, version_of
from tests.support.random_adapters import manifest_of, random_adapters
from training.data import ImageSet
from training.evaluation import head_of
from training.fit import class_features, default_settings, features, image_features, prepare

FITTED = ("crab", "cup", "dolphin", "ewer", "lotus", "starfish", "umbrella", "wild_cat")
LISTS = {
    "its own": FITTED,
    "some of its own": ("lotus", "crab"),
    "one of its own": ("crab",),
    "mixed": ("piano", "crab", "chair", "wild cat", "lotus"),
    "none of its own": ("piano", "chair"),
}


@pytest.fixture(scope="module")
def adapters(clip: FrozenCLIP) -> CLIPAdapters:
    return random_adapters(clip, 1)


@pytest.fixture(scope="module")
def artifact(clip: FrozenCLIP, images: ImageSet, adapters: CLIPAdapters) -> Artifact:
    """Six photos of each of the bundled classes behind the head."""
    rows = torch.cat([(images.labels == c).nonzero().squeeze(1)[:6] for c in range(8)])
    prepared = prepare(clip, images.take(rows), default_settings(clip))
    everything = torch.arange(len(rows))
    seen = features(clip, prepared, adapters, everything)
    head = replace(head_of(clip, prepared, seen, everything), scale=9.0)
    return Artifact(manifest_of(clip, classes=FITTED), export(adapters), head)


@pytest.fixture(scope="module", params=["torch", "onnx"])
def backend(
    request: pytest.FixtureRequest, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Backend:
    bank = Bank(clip.image, clip.text, 3, 32, 3, 2)
    if request.param == "torch":
        return TorchBackend(clip, bank)
    return OnnxBackend(clip, bank, tmp_path_factory.mktemp("cache"))


class Served:
    """One artifact behind a classifier."""

    def __init__(self, clip: FrozenCLIP, engine: Engine, artifact: Artifact) -> None:
        data = encode_artifact(artifact)
        self.version: Version = version_of(artifact.manifest, data)
        tiers = Tiers(engine, clip, 3, 3, {self.version.path: data}.__getitem__)
        limits = Limits(ImageLimits(), 99, 99, 60.0)
        self._engine = engine
        self._made = Classifier(clip, engine, tiers, limits, FairThreads(2, "decode"), 99)

    def ask(self, classes: tuple[str, ...], files: list[Upload]) -> list[Answer]:
        question = Question(
            tenant="t",
            version=self.version,
            classes=classes,
            templates=("a photo of a {}.",),
            top_k=None,
            min_score=None,
        )

        async def run() -> list[Answer]:
            with self._engine.admitted("t") as admission:
                assert isinstance(admission, Admission)
                return (await self._made.classify(question, files, admission))[0]

        return asyncio.run(run())


@pytest.fixture(scope="module")
def engine(backend: Backend) -> Iterator[Engine]:
    running = Engine(backend, 8, 99)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def photos(images: ImageSet) -> ImageSet:
    """Three photos of each class that the head has not seen."""
    rows = torch.cat([(images.labels == c).nonzero().squeeze(1)[6:9] for c in range(8)])
    return images.take(rows)


def files_of(photos: ImageSet) -> list[Upload]:
    """The same pixels as files, without loss."""
    files = []
    for i, pixels in enumerate(photos.pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "PNG")
        files.append(Upload(str(i), stream.getvalue()))
    return files


def found(answers: list[Answer], classes: tuple[str, ...]) -> np.ndarray:
    tables = [dict(answer.predictions) for answer in answers]
    return np.array([[table[name] for name in classes] for table in tables])


@pytest.mark.parametrize("kind", LISTS)
def test_scores_are_the_heads_on_both_backends_for_any_list(
    clip: FrozenCLIP,
    engine: Engine,
    artifact: Artifact,
    adapters: CLIPAdapters,
    photos: ImageSet,
    kind: str,
) -> None:
    asked = LISTS[kind]
    places = {name.replace("_", " "): i for i, name in enumerate(FITTED)}
    columns = torch.tensor([places.get(name.replace("_", " "), -1) for name in asked])
    x = image_features(clip, adapters, photos.pixels)
    w = class_features(clip, adapters, asked, "a photo of a {}.")
    assert artifact.head is not None
    expected = probabilities(artifact.head.float(), x, w, columns, artifact.manifest.logit_scale)
    answers = Served(clip, engine, artifact).ask(asked, files_of(photos))
    assert np.abs(found(answers, asked) - expected.numpy()).max() < 1e-4
    assert found(answers, asked).sum(1) == pytest.approx(1, abs=1e-5)


def test_the_head_finds_photos_that_random_adapters_do_not(
    clip: FrozenCLIP, engine: Engine, artifact: Artifact, photos: ImageSet
) -> None:
    true = [FITTED[label] for label in photos.labels.tolist()]
    right = {}
    for name, made in (("head", artifact), ("names", replace(artifact, head=None))):
        answers = Served(clip, engine, made).ask(FITTED, files_of(photos))
        right[name] = sum(a.label == t for a, t in zip(answers, true, strict=True))
    assert right["head"] > right["names"]


def test_without_a_head_the_names_alone_answer(
    clip: FrozenCLIP,
    engine: Engine,
    artifact: Artifact,
    adapters: CLIPAdapters,
    photos: ImageSet,
) -> None:
    x = image_features(clip, adapters, photos.pixels)
    w = class_features(clip, adapters, FITTED, "a photo of a {}.")
    expected = scores(x, w, artifact.manifest.logit_scale)
    answers = Served(clip, engine, replace(artifact, head=None)).ask(FITTED, files_of(photos))
    assert np.abs(found(answers, FITTED) - expected.numpy()).max() < 1e-4


def test_a_broken_picture_among_good_ones_keeps_its_place(
    clip: FrozenCLIP, engine: Engine, artifact: Artifact, photos: ImageSet
) -> None:
    files = files_of(photos)[:2]
    served = Served(clip, engine, artifact)
    answers = served.ask(FITTED, [files[0], Upload("broken", b"x"), files[1]])
    assert [a.error is None for a in answers] == [True, False, True]
    alone = served.ask(FITTED, [files[1]])[0]
    assert answers[2].label == alone.label
