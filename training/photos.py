"""A job's photos on their way from the store through the frozen blocks.

The frozen features of a photo never change, so the store keeps them: an instant version of a data
set that grew by ten photos reads ten photos. What the adapter's fit needs is larger: the tokens at
its first block, before and after it. They are made for as many photos as the memory for them
holds, the same number of each class. The other photos are read again once the adapter is fitted.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.evidence import balanced
from adapters.rmadapter import CLIPAdapters
from training.evaluation import Rest
from training.fit import FitSettings, Frozen, Prepared, prepare_classes

_CHUNK = 64  # photos read, decoded and passed through the frozen blocks at a time
_RELEASE = 1  # of how a photo becomes a feature; a change of the decoder or the crop adds one
_DIGEST = 32  # bytes of SHA-256
_UNIT = 1e-3  # a unit vector's length is within this of 1


class PhotosChanged(Exception):
    """A photo was deleted while it was being fitted."""


class Photos(Protocol):
    """The photos of a claimed job, in the store."""

    @property
    def names(self) -> tuple[str, ...]:
        """The SHA-256 of each."""

    @property
    def labels(self) -> Tensor:
        """The class of each, int64 [N]."""

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Photos, decoded: uint8 [M, 3, S, S].

        Raises:
            PhotosChanged: one was deleted.
            BadDataset: one cannot be read.
        """

    def features(self) -> dict[int, Tensor]:
        """The frozen features that were kept, by row: float32 [e]."""

    def keep(self, features: dict[int, Tensor]) -> None:
        """Keeps frozen features with the photos, for the next job."""


class FrozenPhotos:
    """The photos of one job after the frozen blocks."""

    def __init__(
        self, clip: FrozenCLIP, photos: Photos, settings: FitSettings, check: Callable[[], None]
    ) -> None:
        """`check` is called before each read; what it raises stops the job."""
        self._clip, self._photos, self._settings, self._check = clip, photos, settings, check
        self._features = photos.features()
        self._new: dict[int, Tensor] = {}
        self._place: dict[int, int] = {}  # row → where its tokens are
        self._tokens: Tensor | None = None
        self._after: Tensor | None = None
        self._read: set[int] = set()  # rows whose tokens are there

    def fit_on(self, rows: Tensor) -> None:
        """Names the photos that the adapter is fitted on, int64 [K], before any is read."""
        self._place = {row: place for place, row in enumerate(rows.tolist())}

    def features(self) -> Tensor:
        """The frozen features of all photos, float32 [N, e] on the CPU."""
        rows = range(len(self._photos.labels))
        self._pass([row for row in rows if row not in self._features])
        return torch.stack([self._features[row] for row in rows])

    def keep(self) -> None:
        """Keeps what was computed for the next job."""
        self._photos.keep(self._new)
        self._new = {}

    def names_fitted(self) -> tuple[str, ...]:
        """The SHA-256 of the photos that `fit_on` named."""
        return tuple(self._photos.names[row] for row in self._place)

    def prepared(self, classes: Sequence[str]) -> Prepared:
        """What the adapter's fit needs, of the photos that `fit_on` named."""
        rows = list(self._place)
        self._pass([row for row in rows if row not in self._read])
        assert self._tokens is not None and self._after is not None
        features = torch.stack([self._features[row] for row in rows]).to(self._clip.device)
        frozen = Frozen(self._tokens, self._after, features)
        labels = self._photos.labels[rows]
        return prepare_classes(self._clip, classes, frozen, labels, self._settings)

    def rest(self) -> Rest | None:
        """The photos that the adapter is not fitted on; None if there is none."""
        rows = [row for row in range(len(self._photos.labels)) if row not in self._place]
        if not rows:
            return None
        return Rest(self._photos.labels[rows], lambda adapters: self._adapted(rows, adapters))

    @torch.no_grad()
    def _adapted(self, rows: list[int], adapters: CLIPAdapters) -> Tensor:
        first = self._settings.adapter.image_first
        return torch.cat(
            [
                self._clip.image_upper(tokens, first, adapters.image.delta).cpu()
                for _, tokens in self._lower(rows)
            ]
        )

    @torch.no_grad()
    def _pass(self, rows: list[int]) -> None:
        first = self._settings.adapter.image_first
        for some, tokens in self._lower(rows):
            after = self._clip.image_between(tokens, first, first + 1)
            features = self._clip.image_upper(after, first + 1).cpu()
            found = dict(zip(some, features, strict=True))
            self._new |= {row: f for row, f in found.items() if row not in self._features}
            self._features |= found
            self._store(some, tokens, after)

    def _store(self, rows: list[int], tokens: Tensor, after: Tensor) -> None:
        kept = [i for i, row in enumerate(rows) if row in self._place]
        if not kept:
            return
        if self._tokens is None or self._after is None:
            shape = (len(self._place), *tokens.shape[1:])
            self._tokens, self._after = tokens.new_empty(shape), after.new_empty(shape)
        places = [self._place[rows[i]] for i in kept]
        self._tokens[places], self._after[places] = tokens[kept], after[kept]
        self._read |= {rows[i] for i in kept}

    def _lower(self, rows: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Some rows at a time, with the input of the adapter's first block, [B, T, d]."""
        for start in range(0, len(rows), _CHUNK):
            self._check()
            some = rows[start : start + _CHUNK]
            pixels = self._photos.pixels(some)
            yield some, self._clip.image_lower(pixels, self._settings.adapter.image_first)


@torch.no_grad()
def rows_in_memory(
    clip: FrozenCLIP, labels: Tensor, settings: FitSettings, most_bytes: int
) -> Tensor:
    """The photos that an adapter is fitted on: all, or as many per class as memory holds.

    Args:
        clip: the frozen CLIP.
        labels: the class of each photo, int64 [N].
        settings: of the fit; they name the adapter's first block.
        most_bytes: memory for the photos' tokens at that block, before and after it.

    Returns:
        int64 [K]; at least one photo of each class.
    """
    size = clip.spec.size
    picture = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    each = 2 * clip.image_lower(picture, settings.adapter.image_first).nbytes
    return balanced(labels, max(most_bytes // each, len(labels.unique())))


def features_key(clip: FrozenCLIP) -> str:
    """What a frozen feature depends on besides its photo, as 16 hexadecimal digits."""
    text = f"{_RELEASE} {clip.fingerprint} {clip.precision} {clip.spec}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def encode_feature(key: str, photo: str, feature: Tensor) -> bytes:
    """The file of one frozen feature: a digest of all that it is of, and its numbers.

    Args:
        key: `features_key` of the CLIP.
        photo: the photo's SHA-256.
        feature: unit, float32 [e].
    """
    numbers = feature.cpu().float().numpy().astype("<f4").tobytes()
    return _digest(key, photo, numbers) + numbers


def decode_feature(key: str, photo: str, width: int, data: bytes) -> Tensor | None:
    """The feature in a file, float32 [width]; None if the file is damaged or of something else."""
    digest, numbers = data[:_DIGEST], data[_DIGEST:]
    if len(numbers) != 4 * width or digest != _digest(key, photo, numbers):
        return None
    feature = torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32))
    return feature if abs(float(feature.norm()) - 1) < _UNIT else None


def _digest(key: str, photo: str, numbers: bytes) -> bytes:
    return hashlib.sha256(f"{key} {photo} ".encode() + numbers).digest()
