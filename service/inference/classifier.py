"""Bytes → pixels → features → scores, for one request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.bank import FROZEN
from adapters.classify import (
    TEMPLATE,
    check_classes,
    check_template,
    mean_features,
    prompts,
    scores,
)
from adapters.clip import FrozenCLIP
from adapters.errors import BadImage, TooLong
from adapters.evidence import Evidence, probabilities
from adapters.names import columns_of
from adapters.pixels import ImageLimits, Pixels, decode_image
from service import metrics, tracing
from service.caches import BoundedCache
from service.errors import Invalid, Problem, TooLarge, Unavailable
from service.fair_threads import FairThreads
from service.inference.admission import Admission
from service.inference.engine import Engine
from service.inference.queue import Feature, Row
from service.inference.tiers import Lease, Tiers
from service.inference.version import ServedVersion

_TEXT_ROWS = 128  # class names queued at a time, so that a long list leaves room for others
_FROZEN_LEASE = Lease(FROZEN, "device")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a request."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question of a request. `version` None: zero-shot, the frozen CLIP."""

    tenant: str
    version: ServedVersion | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]  # several: a class's feature is the mean over them
    top_k: int | None
    min_score: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One file's scores, best first, or why it has none."""

    file: str
    label: str | None
    predictions: tuple[tuple[str, float], ...]
    error: str | None = None
    warning: str | None = None  # the defect of a picture that could still be read


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
        decoders: FairThreads,
        text_features: int,
    ) -> None:
        self._clip, self.engine, self._tiers, self._limits = clip, engine, tiers, limits
        self._decoders = decoders
        self._distinct: BoundedCache[int, None] = BoundedCache(text_features)  # lists of names
        self._text: BoundedCache[tuple[str, tuple[str, ...], str], Feature] = BoundedCache(
            text_features
        )

    async def classify(
        self, question: Question, files: Sequence[Upload], admission: Admission
    ) -> tuple[list[Answer], Lease]:
        """Scores each file; a broken one is an answer with its error.

        Raises:
            Invalid, BadClasses: no files, too many, unusable names; names what is wrong.
            TooMany: the queue is full. Unavailable: the deadline passed.
        """
        admission.hold(len(files))
        self._check_files(files)
        check_classes(question.classes, self._limits.classes)
        for template in question.templates:
            check_template(template)
        async with self._in_time():
            await self._check_distinct(question)
            with tracing.span("decode", pictures=len(files)):
                warnings: list[list[str]] = [[] for _ in files]
                pixels = await asyncio.gather(
                    *(
                        self.decode_picture(question.tenant, file.data, said.append)
                        for file, said in zip(files, warnings, strict=True)
                    )
                )
            good = [p for p in pixels if not isinstance(p, BadImage)]
            async with self.lease(question.version) as lease:  # for the device's work alone
                texts = await self.text_features_of(question, lease)
                features = await self._run(question.tenant, lease, good, one_by_one=True)
            rankings = iter(await self._rankings(question, lease.head, features, texts))
        answers = [
            _failed(file, image)
            if isinstance(image, BadImage)
            else replace(
                self._answer(question, file, next(rankings)),
                warning="; ".join(said) or None,
            )
            for file, image, said in zip(files, pixels, warnings, strict=True)
        ]
        return answers, lease

    async def embed(
        self,
        tenant: str,
        version: ServedVersion | None,
        inputs: Sequence[str | Upload],
        admission: Admission,
    ) -> tuple[list[Feature], int]:
        """Unit features of texts and pictures in one space, and the number of text tokens.

        Raises what `classify` raises; a broken picture is Invalid.
        """
        admission.hold(sum(not isinstance(item, str) for item in inputs))
        async with self._in_time():
            contents: list[Pixels | str] = []
            for i, item in enumerate(inputs):
                if isinstance(item, str):
                    contents.append(item)
                    continue
                picture = await self.decode_picture(tenant, item.data)
                if isinstance(picture, BadImage):
                    raise Invalid("an input is not a picture", Problem(f"input[{i}]", str(picture)))
                contents.append(picture)
            texts = [content for content in contents if isinstance(content, str)]
            try:
                lengths = await self._lengths(tenant, texts)
            except TooLong as error:
                where = f"input[{inputs.index(error.prompt)}]"
                raise Invalid("an input is too long", Problem(where, str(error))) from error
            pixels = [content for content in contents if not isinstance(content, str)]
            async with self.lease(version) as lease:
                read = await self._prompt_features(tenant, lease, lengths)
                seen = iter(await self._run(tenant, lease, pixels))
            features = [read[c] if isinstance(c, str) else _whole(next(seen)) for c in contents]
            return features, sum(lengths[text] for text in texts)

    async def _lengths(self, tenant: str, texts: Sequence[str]) -> dict[str, int]:
        """Each text's tokens. Not on the event loop: a long text takes milliseconds.

        Raises:
            BadClasses: one is too long.
        """
        if not texts:
            return {}
        distinct = list(dict.fromkeys(texts))
        lengths = await self._in_turn(tenant, self._clip.lengths, distinct)
        return dict(zip(distinct, lengths, strict=True))

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Within a request's deadline."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                yield
        except TimeoutError as error:
            raise Unavailable(f"no answer within {self._limits.seconds:g} s") from error

    @asynccontextmanager
    async def lease(self, version: ServedVersion | None) -> AsyncIterator[Lease]:
        """Holds the version's weights in a slot, which nobody else may take meanwhile."""
        if version is None:
            yield _FROZEN_LEASE
        else:
            async with self._tiers.lease(version) as lease:
                yield lease

    async def _check_distinct(self, question: Question) -> None:
        """Refuses given names that read the same. An adapter's own were checked before its fit."""
        version, names, template = question.version, question.classes, question.templates[0]
        if version is not None and names == version.classes:
            return
        if (key := hash((names, template))) not in self._distinct:
            await self._in_turn(question.tenant, self._clip.check_names, names, template)
            self._distinct.keep(key, None)

    def _check_files(self, files: Sequence[Upload]) -> None:
        if not files:
            raise Invalid("no pictures were sent", Problem("files", "required"))
        if len(files) > self._limits.images:
            raise TooLarge(f"{len(files)} pictures, more than the {self._limits.images} allowed")

    async def _in_turn(self, tenant: str, work: Callable[..., T], *arguments: Any) -> T:
        """Runs work on the decoders' threads, in the tenant's turn."""
        return await asyncio.wrap_future(self._decoders.submit(tenant, work, *arguments))

    async def decode_picture(
        self, tenant: str, data: bytes, warn: Callable[[str], None] = lambda _: None
    ) -> Pixels | BadImage:
        """Decodes one picture on the decoders' threads, in the tenant's turn.

        Args:
            tenant: whose turn it takes.
            data: the picture's file.
            warn: told what was wrong with a picture that is read all the same.

        Returns:
            Pixels, uint8 [3, size, size]; or the reason why there are none.
        """
        try:
            pixels = await self._in_turn(
                tenant, decode_image, data, self._clip.spec, self._limits.image, warn
            )
        except BadImage as error:
            metrics.IMAGES.labels("rejected").inc()
            return error
        metrics.IMAGES.labels("accepted").inc()
        return pixels

    async def text_features_of(self, question: Question, lease: Lease) -> NDArray[np.float32]:
        """Text features [C, e], cached by weights, templates and class."""
        weights = question.version.sha256 if question.version else ""
        keys = [(weights, question.templates, name) for name in question.classes]
        found = {key: self._text[key] for key in keys if key in self._text}
        if missing := [key[2] for key in keys if key not in found]:
            made = await self._ensembles(question, lease, missing)
            found |= {(weights, question.templates, name): made[name] for name in missing}
        for key in keys:
            self._text.keep(key, found[key])
        return np.stack([found[key] for key in keys])

    async def _ensembles(
        self, question: Question, lease: Lease, names: Sequence[str]
    ) -> dict[str, Feature]:
        """Each name's feature, the mean over the templates."""
        by_template = [prompts(names, template) for template in question.templates]
        lengths = await self._lengths(question.tenant, list(chain(*by_template)))
        made = await self._prompt_features(question.tenant, lease, lengths)
        if len(by_template) == 1:
            return {name: made[prompt] for name, prompt in zip(names, by_template[0], strict=True)}
        stacks = [
            np.stack([made[p] for p in of_name]) for of_name in zip(*by_template, strict=True)
        ]
        means = [mean_features(torch.from_numpy(stack)).numpy() for stack in stacks]
        return dict(zip(names, means, strict=True))

    async def _prompt_features(
        self, tenant: str, lease: Lease, lengths: Mapping[str, int]
    ) -> dict[str, Feature]:
        """Features of texts. Short texts go first, since a batch is as long as its longest."""
        order = sorted(lengths, key=lengths.__getitem__)
        made: dict[str, Feature] = {}
        for start in range(0, len(order), _TEXT_ROWS):
            chunk = order[start : start + _TEXT_ROWS]
            features = await self._run(tenant, lease, chunk)
            made.update(zip(chunk, map(_whole, features), strict=True))
        return made

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
        with tracing.span("queue and device", rows=len(rows)):
            self.engine.submit(rows)
            waiting = [asyncio.wrap_future(row.future) for row in rows]
            try:
                results = await asyncio.gather(*waiting, return_exceptions=True)
            except asyncio.CancelledError:  # the client has gone, or the deadline passed
                self.engine.withdraw(rows)
                raise
        for result in results:
            alone = one_by_one and isinstance(result, Exception)
            if isinstance(result, BaseException) and (not alone or isinstance(result, Unavailable)):
                raise result
        return results  # type: ignore[return-value]

    async def _rankings(
        self,
        question: Question,
        head: Evidence | None,
        features: Sequence[Feature | Exception],
        texts: NDArray[np.float32],
    ) -> list[Feature | Exception]:
        """Each picture's scores of the requested names, float32 [C]; errors stay in place."""
        good = [feature for feature in features if not isinstance(feature, Exception)]
        if not good:
            return list(features)
        if head is None:
            scale = self._logit_scale(question.version)
            made = [_by_name(feature, texts, scale) for feature in good]
        else:  # a product for each photo of the fit: not on the event loop
            made = await self._in_turn(
                question.tenant, self._by_head, question, head, np.stack(good), texts
            )
        ranking = iter(made)
        return [item if isinstance(item, Exception) else next(ranking) for item in features]

    def _by_head(
        self,
        question: Question,
        head: Evidence,
        images: NDArray[np.float32],
        texts: NDArray[np.float32],
    ) -> list[Feature]:
        """All pictures of a request at once: [B, e] and [C, e] → B times [C]."""
        version = question.version
        assert version is not None  # the frozen CLIP has no head
        names, own = question.classes, version.classes
        places = range(len(own)) if names == own else columns_of(names, own, self._clip.prompt_ids)
        columns = torch.tensor(places)
        tensors = torch.from_numpy(images), torch.from_numpy(texts), columns
        return list(probabilities(head, *tensors, version.logit_scale).numpy())

    def _logit_scale(self, version: ServedVersion | None) -> float:
        return version.logit_scale if version else self._clip.logit_scale

    def _answer(self, question: Question, file: Upload, ranking: Feature | Exception) -> Answer:
        if isinstance(ranking, Exception):
            return _failed(file, BadImage("the model could not process this picture"))
        order = np.argsort(-ranking, kind="stable")[: question.top_k]
        ranked = tuple((question.classes[i], float(ranking[i])) for i in order)
        sure = question.min_score is None or ranked[0][1] >= question.min_score
        return Answer(file.name, ranked[0][0] if sure else None, ranked)


def _by_name(feature: Feature, texts: NDArray[np.float32], scale: float) -> Feature:
    """One picture's scores by the names alone: [e] and [C, e] → [C]."""
    row = torch.from_numpy(feature).unsqueeze(0)
    ranking: Feature = scores(row, torch.from_numpy(texts), scale)[0].numpy()
    return ranking


def default_template(version: ServedVersion | None) -> str:
    """The template that an adapter was fitted with; CLIP's usual one without an adapter."""
    return version.template if version else TEMPLATE


def _failed(file: Upload, error: BadImage) -> Answer:
    return Answer(file.name, None, (), str(error))


def _whole(feature: Feature | Exception) -> Feature:
    assert not isinstance(feature, Exception)
    return feature
