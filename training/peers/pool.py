"""The photos that all methods share, the fitted method, and its ways to compute scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.clip import Delta, FrozenCLIP
from training.data import ImageSet
from training.fit import class_features, text_features

_CHUNK = 64  # photos through the frozen blocks at a time
_KEEP_BYTES = 2 << 30  # above this, tokens are recomputed each time: ViT-B/16 at 3,500 photos


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures that all methods share: pixels, and the input of block 1 if it fits in memory."""

    images: ImageSet
    tokens: Tensor | None  # float32 [N, T, d] on the device
    features: Tensor  # frozen unit features, float32 [N, e] on the device

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [N] into `classes`."""
        return self.images.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.images.classes

    def take(self, rows: Tensor) -> "Pool":
        """The pictures at `rows`, int64 [M]; the classes stay."""
        at = rows.to(self.features.device)
        tokens = None if self.tokens is None else self.tokens[at]
        return Pool(self.images.take(rows), tokens, self.features[at])

    def only(self, first: int, last: int) -> "Pool":
        """The pictures of classes first…last−1; their labels start from 0."""
        rows = ((self.labels >= first) & (self.labels < last)).nonzero().squeeze(1)
        part = self.take(rows)
        named = ImageSet(part.images.pixels, part.labels - first, self.classes[first:last])
        return replace(part, images=named)

    def chunks(self, clip: FrozenCLIP) -> Iterator[Tensor]:
        """The input of block 1 in chunks, [≤64, T, d]."""
        if self.tokens is not None:
            yield from self.tokens.split(_CHUNK)
            return
        for pixels in self.images.pixels.split(_CHUNK):
            yield clip.image_lower(pixels, 1)


@torch.no_grad()
def make_pool(clip: FrozenCLIP, images: ImageSet) -> Pool:
    """Runs the pictures through the frozen CLIP, once."""
    tokens: list[Tensor] = []
    features: list[Tensor] = []
    keep = True
    for pixels in images.pixels.split(_CHUNK):
        lower = clip.image_lower(pixels, 1)
        features.append(clip.image_upper(lower, 1))
        keep = keep and lower[0].nbytes * len(images) <= _KEEP_BYTES
        if keep:
            tokens.append(lower)
    return Pool(images, torch.cat(tokens) if keep else None, torch.cat(features))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted method: its trainable parameters, and (pool, class names) → logits [N, C]."""

    parameters: int
    cosines: Callable[[Pool, Sequence[str]], Tensor]


def frozen_cosines(clip: FrozenCLIP, template: str) -> Callable[[Pool, Sequence[str]], Tensor]:
    """The frozen CLIP's scores: (pool, class names) → cosines, float32 [N, C]."""

    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        return pool.features @ class_features(clip, None, classes, template).T

    return cosines


def adapted_cosines(
    clip: FrozenCLIP, template: str, see: Delta | None = None, read: Delta | None = None
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """Scores by both towers with the deltas added to their blocks' outputs."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        seen = adapted_images(clip, pool, see)
        return seen @ text_features(clip, classes, template, read).T

    return cosines


@torch.no_grad()
def adapted_images(clip: FrozenCLIP, pool: Pool, see: Delta | None) -> Tensor:
    """Unit features of a pool's pictures, [N, e], with the delta added to the blocks' outputs."""
    return torch.cat([clip.image_upper(tokens, 1, see) for tokens in pool.chunks(clip)])


def bound_cosines(
    clip: FrozenCLIP, train: Pool, template: str, logits: Callable[[Tensor], Tensor]
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """Scores by `logits` for the fitted classes, and zero-shot for any others."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        if tuple(classes) == train.classes:
            return logits(pool.features)
        return frozen_cosines(clip, template)(pool, classes)

    return cosines
