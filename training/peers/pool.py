"""Photos that many methods read, what a fitted method is, and the ways in which one answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.clip import Delta, FrozenCLIP
from training.data import ImageSet
from training.fit import class_features, text_features

_CHUNK = 64  # photos through the frozen blocks at a time
_KEEP_BYTES = 2 << 30  # tokens above this are computed anew each time: ViT-B/16 at 3,500 photos


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures that many methods read: pixels, and the input of block 1 where it fits in memory."""

    images: ImageSet
    tokens: Tensor | None  # float32 [N, T, d] on the device
    features: Tensor  # frozen unit features, float32 [N, e] on the device

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """int64 [N], places in `classes`."""
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
        """The classes first…last−1, labels counted anew from 0."""
        rows = ((self.labels >= first) & (self.labels < last)).nonzero().squeeze(1)
        part = self.take(rows)
        named = ImageSet(part.images.pixels, part.labels - first, self.classes[first:last])
        return replace(part, images=named)

    def chunks(self, clip: FrozenCLIP) -> Iterator[Tensor]:
        """The input of block 1, [≤64, T, d] at a time."""
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
    """A fitted method: how many numbers it trained, and (pool, class names) → logits [N, C]."""

    parameters: int
    cosines: Callable[[Pool, Sequence[str]], Tensor]


def frozen_cosines(clip: FrozenCLIP, template: str) -> Callable[[Pool, Sequence[str]], Tensor]:
    """A judge of pictures by the frozen CLIP: cosines float32 [N, C] of a pool and class names."""

    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        return pool.features @ class_features(clip, None, classes, template).T

    return cosines


def adapted_cosines(
    clip: FrozenCLIP, template: str, see: Delta | None = None, read: Delta | None = None
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """Both towers run with what the deltas add to their blocks' outputs."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        seen = adapted_images(clip, pool, see)
        return seen @ text_features(clip, classes, template, read).T

    return cosines


@torch.no_grad()
def adapted_images(clip: FrozenCLIP, pool: Pool, see: Delta | None) -> Tensor:
    """Unit features of a pool's pictures, [N, e], with what the delta adds to the blocks."""
    return torch.cat([clip.image_upper(tokens, 1, see) for tokens in pool.chunks(clip)])


def bound_cosines(
    clip: FrozenCLIP, train: Pool, template: str, logits: Callable[[Tensor], Tensor]
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """`logits` for the fitted classes, zero-shot for any others."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        if tuple(classes) == train.classes:
            return logits(pool.features)
        return frozen_cosines(clip, template)(pool, classes)

    return cosines
