"""Bytes → pixels → features → scores, for one request."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.bank import FROZEN
from adapters.classify import TEMPLATE, check_classes, check_template, prompts, scores
from adapters.clip import FrozenCLIP
from adapters.errors import BadImage
from adapters.pixels import ImageLimits, Pixels, decode
from service import metrics
from service.engine import Engine, Feature, Row
from service.errors import Invalid, Problem, TooLarge, Unavailable
from service.registry.adapters import Version
from service.tiers import Lease, Tiers

_TEXT_ROWS = 128  # class names queued at a time, so that a long list leaves room for others
_FROZEN_LEASE = Lease(FROZEN, "device")


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a request."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `version` None: zero-shot, the frozen CLIP."""

    tenant: str
    version: Version | None
    classes: tuple[str, ...]
    template: str
    top_k: int | None
    min_score: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One file's scores, best first, or why it has none."""

    file: str
    label: str | None
    predictions: tuple[tuple[str, float], ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    image: ImageLimits
    images: int
    classes: int
    seconds: float


class Classifier:
    """Answers questions with the engine and the tiers."""

    def __init__(
        self,
        clip: FrozenCLIP,
        engine: Engine,
        tiers: Tiers,
        limits: Limits,
        decode_threads: int,
        text_features: int,
    ) -> None:
        self._clip, self._engine, self._tiers, self._limits = clip, engine, tiers, limits
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._text: OrderedDict[tuple[str, str], Feature] = OrderedDict()
        self._text_limit = text_features

    async def classify(
        self, question: Question, files: Sequence[Upload]
    ) -> tuple[list[Answer], Lease]:
        """Scores each file; a broken one is an answer with its error.

        Raises:
            Invalid, BadClasses: no files, too many, unusable names; names what is wrong.
            TooMany: the queue is full. Unavailable: the deadline passed.
        """
        self._check_files(files)
        check_classes(question.classes, self._limits.classes)
        check_template(question.template)
        self._engine.check_wait(question.tenant)
        async with self._deadline(), self._lease(question.version) as lease:
            pixels = await asyncio.gather(*(self._decode(file.data) for file in files))
            texts = await self._text_features(question, lease)
            good = [p for p in pixels if not isinstance(p, BadImage)]
            rows = iter(await self._run(question.tenant, lease, good, one_by_one=True))
            answers = [
                _failed(file, image)
                if isinstance(image, BadImage)
                else self._answer(question, file, next(rows), texts)
                for file, image in zip(files, pixels, strict=True)
            ]
        return answers, lease

    async def embed(
        self, tenant: str, version: Version | None, inputs: Sequence[str | Upload]
    ) -> tuple[list[Feature], int]:
        """Unit features of texts and pictures in one space, and the number of text tokens.

        Raises what `classify` raises; a broken picture is Invalid.
        """
        async with self._deadline(), self._lease(version) as lease:
            contents: list[Pixels | str] = []
            for i, item in enumerate(inputs):
                content = item if isinstance(item, str) else await self._decode(item.data)
                if isinstance(content, BadImage):
                    raise Invalid("an input is not a picture", Problem(f"input[{i}]", str(content)))
                contents.append(content)
            texts = [content for content in contents if isinstance(content, str)]
            tokens = int((self._clip.tokenize(texts) > 0).sum()) if texts else 0
            return [_whole(f) for f in await self._run(tenant, lease, contents)], tokens

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.seconds):
                yield
        except TimeoutError as error:
            raise Unavailable(f"no answer within {self._limits.seconds:g} s") from error

    @asynccontextmanager
    async def _lease(self, version: Version | None) -> AsyncIterator[Lease]:
        if version is None:
            yield _FROZEN_LEASE
        else:
            async with self._tiers.lease(version) as lease:
                yield lease

    def _check_files(self, files: Sequence[Upload]) -> None:
        if not files:
            raise Invalid("no pictures were sent", Problem("files", "required"))
        if len(files) > self._limits.images:
            raise TooLarge(f"{len(files)} pictures, more than the {self._limits.images} allowed")

    async def _decode(self, data: bytes) -> Pixels | BadImage:
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(
                self._decoders, decode, data, self._clip.spec, self._limits.image
            )
        except BadImage as error:
            metrics.IMAGES.labels("rejected").inc()
            return error
        metrics.IMAGES.labels("accepted").inc()
        return pixels

    async def _text_features(self, question: Question, lease: Lease) -> NDArray[np.float32]:
        """[C, e], from memory where it was made before: by weights and prompt."""
        weights = question.version.sha256 if question.version else ""
        wanted = prompts(question.classes, question.template)
        missing = [p for p in dict.fromkeys(wanted) if (weights, p) not in self._text]
        found = {p: self._text[weights, p] for p in wanted if (weights, p) in self._text}
        if missing:
            self._clip.tokenize(missing)  # names a prompt that is too long before any work is done
        for start in range(0, len(missing), _TEXT_ROWS):
            chunk = missing[start : start + _TEXT_ROWS]
            features = await self._run(question.tenant, lease, chunk)
            found.update(zip(chunk, map(_whole, features), strict=True))
        for prompt in wanted:
            self._text[weights, prompt] = found[prompt]
            self._text.move_to_end((weights, prompt))
        while len(self._text) > self._text_limit:
            self._text.popitem(last=False)
        return np.stack([found[prompt] for prompt in wanted])

    async def _run(
        self,
        tenant: str,
        lease: Lease,
        contents: Sequence[Pixels | str],
        one_by_one: bool = False,
    ) -> list[Feature | Exception]:
        """Features in order; with `one_by_one`, a row that broke is its error in the list."""
        rows = [Row(tenant, lease.slot, content) for content in contents]
        if not rows:
            return []
        self._engine.submit(rows)
        waiting = [asyncio.wrap_future(row.future) for row in rows]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not (
                one_by_one and isinstance(result, Exception)
            ):
                raise result
        return results  # type: ignore[return-value]

    def _answer(
        self,
        question: Question,
        file: Upload,
        feature: Feature | Exception,
        texts: NDArray[np.float32],
    ) -> Answer:
        if isinstance(feature, Exception):
            return _failed(file, BadImage("the model could not process this picture"))
        version = question.version
        scale = version.logit_scale if version else self._clip.logit_scale
        row = torch.from_numpy(feature).unsqueeze(0)  # [1, e]
        ranking = scores(row, torch.from_numpy(texts), scale)[0].numpy()  # [C]
        order = np.argsort(-ranking, kind="stable")[: question.top_k]
        ranked = tuple((question.classes[i], float(ranking[i])) for i in order)
        sure = question.min_score is None or ranked[0][1] >= question.min_score
        return Answer(file.name, ranked[0][0] if sure else None, ranked)


def default_template(version: Version | None) -> str:
    """The template that an adapter was fitted with; CLIP's usual one without an adapter."""
    return version.template if version else TEMPLATE


def _failed(file: Upload, error: BadImage) -> Answer:
    return Answer(file.name, None, (), str(error))


def _whole(feature: Feature | Exception) -> Feature:
    assert not isinstance(feature, Exception)
    return feature
