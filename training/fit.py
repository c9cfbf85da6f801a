"""Fits an RMAdapter to labelled pictures, without Redis, environment variables or files.

There is no augmentation. The outputs of the blocks below the first adapter, of the frozen block
beside it, and the frozen features of the consistency loss therefore never change. They are computed
once, and each step runs only the blocks above.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapters.classify import TEMPLATE, prompts
from adapters.clip import Delta, FrozenCLIP
from adapters.config import AdapterConfig, LossWeights, TowerShape
from adapters.errors import BadDataset
from adapters.rmadapter import CLIPAdapters, Reconstruction, TowerOutput, total_loss
from training.data import ImageSet

_CHUNK = 64  # pictures through the frozen blocks at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How an adapter is fitted. The defaults were searched by `python -m training.search`."""

    adapter: AdapterConfig
    losses: LossWeights = field(default_factory=LossWeights)
    epochs: int = 10  # 20 epochs gain less than a point and take twice the time
    min_steps: int = 60  # enough to fit a data set of a dozen pictures
    batch_size: int = 32
    learning_rate: float = 1e-3  # a third or three times this rate: within a point
    weight_decay: float = 0.01
    count_padding: bool = False  # whether λ2's mean includes padding tokens; it is no better
    seed: int = 1
    template: str = TEMPLATE

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a manifest keeps them."""
        plain = {
            name: getattr(self, name)
            for name in ("epochs", "min_steps", "batch_size", "learning_rate", "weight_decay")
        }
        nested = {"adapter": self.adapter.to_dict(), "losses": self.losses.to_dict()}
        chosen = {"count_padding": self.count_padding, "seed": self.seed, "template": self.template}
        return nested | plain | chosen


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a fit: epochs, steps and parts count from 1.

    A part is one training run. All parts but the last hold out photos to estimate the accuracy.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    part: int = 1
    parts: int = 1


OnProgress = Callable[[Progress], None]  # raises to stop the fit


def first_block(tower: TowerShape) -> int:
    """The first block with an adapter, k.

    Adapters sit in the upper two thirds of a tower's blocks: from 5 of 12 in ViT-B/16, which is
    MMA's published setting; from 3 of 6 and 2 of 4 in the bundled CLIP.
    """
    return tower.blocks // 3 + 1


def default_settings(clip: FrozenCLIP, **changes: Any) -> FitSettings:
    """The default settings for a CLIP, with the first blocks that suit its depths."""
    adapter = AdapterConfig(image_first=first_block(clip.image), text_first=first_block(clip.text))
    return FitSettings(adapter=adapter, **changes)


@dataclass(frozen=True, slots=True)
class Frozen:
    """One tower's precomputed frozen tensors; k is the block of the first adapter."""

    tokens: Tensor  # [N, T, d], the input of block k
    after: Tensor  # [N, T, d], the frozen output of block k
    features: Tensor  # float32 [N, e], unit


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set after the frozen blocks, as fitting and evaluating an adapter need it."""

    images: Frozen
    text: Frozen
    ids: Tensor  # int64 [C, L]
    labels: Tensor  # int64 [N], on the device
    classes: tuple[str, ...]
    settings: FitSettings

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def prepare(clip: FrozenCLIP, data: ImageSet, settings: FitSettings) -> Prepared:
    """Runs every picture and every class's prompt through the frozen blocks, once.

    Raises:
        BadDataset: fewer than two classes.
    """
    config = settings.adapter
    chunks = (clip.image_lower(chunk, config.image_first) for chunk in data.pixels.split(_CHUNK))
    images = freeze(clip, chunks, config.image_first)
    return prepare_classes(clip, data.classes, images, data.labels, settings)


def freeze(clip: FrozenCLIP, chunks: Iterable[Tensor], first: int) -> Frozen:
    """The frozen tensors from chunks of the input of image block `first`, [B, T, d] each."""
    parts = []
    for tokens in chunks:
        after = clip.image_between(tokens, first, first + 1)
        parts.append((tokens, after, clip.image_upper(after, first + 1)))
    tokens, after, features = map(torch.cat, zip(*parts, strict=True))
    return Frozen(tokens, after, features)


@torch.no_grad()
def prepare_classes(
    clip: FrozenCLIP,
    classes: Sequence[str],
    images: Frozen,
    labels: Tensor,
    settings: FitSettings,
) -> Prepared:
    """Adds the classes' prompts to pictures that have already passed the frozen blocks.

    Raises:
        BadDataset: fewer than two classes.
    """
    if len(classes) < 2:
        raise BadDataset("a classifier needs at least two classes")
    first = settings.adapter.text_first
    ids = clip.tokenize(prompts(classes, settings.template))
    tokens, after = clip.text_lower(ids, first), clip.text_lower(ids, first + 1)
    text = Frozen(tokens, after, clip.text_upper(after, ids, first + 1))
    return Prepared(images, text, ids, labels.to(clip.device), tuple(classes), settings)


def fit(
    clip: FrozenCLIP,
    data: ImageSet,
    settings: FitSettings,
    on_progress: OnProgress = lambda progress: None,
) -> CLIPAdapters:
    """Fits adapters for `data`'s classes, deterministic under the seed.

    Raises:
        BadDataset: fewer than two classes.
        Exception: any error that `on_progress` raises; this cancels the fit.
    """
    prepared = prepare(clip, data, settings)
    return fit_rows(clip, prepared, torch.arange(len(data)), on_progress)


def fit_rows(
    clip: FrozenCLIP,
    prepared: Prepared,
    rows: Tensor,
    on_progress: OnProgress = lambda progress: None,
) -> CLIPAdapters:
    """Fits adapters on the pictures at `rows`, int64 [M]."""
    settings = prepared.settings
    torch.manual_seed(settings.seed)
    adapters = CLIPAdapters(clip.image, clip.text, settings.adapter).to(clip.device)
    step_loss = batch_loss(clip, adapters, prepared)
    _optimise(adapters, rows.to(clip.device), prepared, step_loss, on_progress)
    return adapters.eval()


def steps_of(images: int, settings: FitSettings) -> tuple[int, int]:
    """(epochs, steps) of a fit on this number of pictures."""
    per_epoch = math.ceil(images / settings.batch_size)
    epochs = max(settings.epochs, math.ceil(settings.min_steps / per_epoch))
    return epochs, epochs * per_epoch


@dataclass(frozen=True, slots=True)
class Features:
    """The unit features that a head uses: those of pictures and of the classes' names."""

    images: Tensor  # float32 [M, e]
    text: Tensor  # float32 [C, e]

    def cosines(self) -> Tensor:
        """Similarity of each picture to each class, float32 [M, C]."""
        return self.images @ self.text.T


@torch.no_grad()
def features(
    clip: FrozenCLIP, prepared: Prepared, adapters: CLIPAdapters | None, rows: Tensor
) -> Features:
    """Features of the pictures at `rows`, int64 [M], and of all classes.

    Without adapters they are the frozen CLIP's.
    """
    if adapters is None:
        return Features(prepared.images.features[rows.to(clip.device)], prepared.text.features)
    text, config = prepared.text, prepared.settings.adapter
    first, delta = config.text_first, adapters.text.delta
    read = clip.text_upper(text.tokens, prepared.ids, first, delta, text.after)
    return Features(adapted_image_features(clip, prepared, adapters, rows), read)


@torch.no_grad()
def adapted_image_features(
    clip: FrozenCLIP, prepared: Prepared, adapters: CLIPAdapters, rows: Tensor
) -> Tensor:
    """Adapted features of the pictures at `rows`, int64 [M] → unit [M, e]."""
    images, first = prepared.images, prepared.settings.adapter.image_first
    seen = [
        clip.image_upper(images.tokens[chunk], first, adapters.image.delta, images.after[chunk])
        for chunk in rows.to(clip.device).split(_CHUNK)
    ]
    return torch.cat(seen)


def cosines(
    clip: FrozenCLIP, prepared: Prepared, adapters: CLIPAdapters | None, rows: Tensor
) -> Tensor:
    """Similarity of the pictures at `rows` to each class, float32 [M, C]; None: frozen CLIP."""
    return features(clip, prepared, adapters, rows).cosines()


@torch.inference_mode()
def image_features(clip: FrozenCLIP, adapters: CLIPAdapters | None, pixels: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] → unit float32 [N, e]; without adapters, the frozen CLIP's."""
    delta: Delta | None = adapters.image.delta if adapters else None
    chunks = [
        clip.image_upper(clip.image_lower(chunk, 1), 1, delta) for chunk in pixels.split(_CHUNK)
    ]
    return torch.cat(chunks)


@torch.inference_mode()
def class_features(
    clip: FrozenCLIP, adapters: CLIPAdapters | None, classes: Sequence[str], template: str
) -> Tensor:
    """Class names → unit float32 [C, e]; without adapters, the frozen CLIP's."""
    return text_features(clip, classes, template, adapters.text.delta if adapters else None)


@torch.inference_mode()
def text_features(
    clip: FrozenCLIP, classes: Sequence[str], template: str, delta: Delta | None = None
) -> Tensor:
    """Class names → unit float32 [C, e], with what `delta` adds to the text blocks' outputs."""
    ids = clip.tokenize(prompts(classes, template))
    return clip.text_upper(clip.text_lower(ids, 1), ids, 1, delta)


def batch_loss(
    clip: FrozenCLIP, adapters: CLIPAdapters, prepared: Prepared
) -> Callable[[Tensor], Tensor]:
    """The loss that a fit minimises: rows of a batch, int64 [B] on the device → a scalar."""
    images, text, ids = prepared.images, prepared.text, prepared.ids
    config = prepared.settings.adapter
    positions = torch.arange(ids.shape[1], device=clip.device)
    counted = positions <= clip.end_of_text(ids).unsqueeze(1)  # [C, L], padding left out
    if prepared.settings.count_padding:
        counted = torch.ones_like(counted)

    def loss(rows: Tensor) -> Tensor:
        see, read = Reconstruction(adapters.image), Reconstruction(adapters.text, counted)
        seen, after = images.tokens[rows], images.after[rows]
        x = clip.image_upper(seen, config.image_first, see, after)
        w = clip.text_upper(text.tokens, ids, config.text_first, read, text.after)
        return total_loss(
            clip.logit_scale * x @ w.T,
            prepared.labels[rows],
            prepared.settings.losses,
            TowerOutput(x, images.features[rows], see.error),
            TowerOutput(w, text.features, read.error),
        )

    return loss


def _optimise(
    adapters: CLIPAdapters,
    rows: Tensor,
    prepared: Prepared,
    step_loss: Callable[[Tensor], Tensor],
    on_progress: OnProgress,
) -> None:
    """AdamW under a cosine that starts with a short warm-up."""
    settings = prepared.settings
    (epochs, steps), step = steps_of(len(rows), settings), 0
    optimiser = torch.optim.AdamW(
        adapters.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: rate_at(done, steps))
    generator = torch.Generator().manual_seed(settings.seed)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        for batch in order.split(settings.batch_size):
            loss = step_loss(rows[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            on_progress(Progress(epoch, epochs, step, steps, loss.item()))


def rate_at(done: int, steps: int) -> float:
    """The share of the learning rate after `done` steps: a short warm-up, then a cosine."""
    warmup = max(1, steps // 20)
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, steps - warmup)))
