"""A job's photos in the records and the object store, as the training package asks for them."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset, BadImage
from adapters.pixels import ImageLimits, Pixels, decode_image
from service.errors import NotFound, Unavailable
from service.records import Records
from service.records.datasets import Listed
from service.records.features import PhotoFile
from service.worker.patience import patiently
from training.data import Sample
from training.photos import PhotosChanged, decode_feature, encode_feature, features_key

log = logging.getLogger(__name__)

_DECODERS = 4  # photos read and decoded at once


class StoredPhotos:
    """A `training.photos.Photos` over the records."""

    def __init__(
        self,
        records: Records,
        clip: FrozenCLIP,
        limits: ImageLimits,
        tenant: str,
        dataset: str,
        listed: list[Listed],
    ) -> None:
        self._records, self._clip, self._limits = records, clip, limits
        self._tenant, self._dataset, self._listed = tenant, dataset, listed
        self._key = features_key(clip)
        self.names = tuple(one.image.digest for one in listed)
        self.classes = tuple(sorted({one.image.label for one in listed}))
        index = {name: i for i, name in enumerate(self.classes)}
        self.labels = torch.tensor([index[one.image.label] for one in listed])

    def pixels(self, rows: Sequence[int]) -> torch.Tensor:
        """Photos, read and decoded on a few threads."""
        with ThreadPoolExecutor(_DECODERS) as pool:
            samples = list(pool.map(self._sample, rows))
            pictures = pool.map(self._decode, samples)
            return torch.from_numpy(np.stack(list(pictures)))

    def features(self) -> dict[int, torch.Tensor]:
        """The features that the records keep and that are whole."""
        files = [PhotoFile(one.image.digest, one.file) for one in self._listed]
        kept = self._records.features.read(self._tenant, self._dataset, self._key, files)
        found = {}
        for row, name in enumerate(self.names):
            width, data = self._clip.embed_dim, kept.get(name, b"")
            if (feature := decode_feature(self._key, name, width, data)) is not None:
                found[row] = feature
        return found

    def keep(self, features: dict[int, torch.Tensor]) -> None:
        """Keeps features; what cannot be kept now is computed again by the next job."""
        files = {
            PhotoFile(self.names[row], self._listed[row].file): encode_feature(
                self._key, self.names[row], feature
            )
            for row, feature in features.items()
        }
        try:
            self._records.features.keep(self._tenant, self._dataset, self._key, files)
        except Unavailable as error:
            log.warning("features are not kept: %s", error)

    def _sample(self, row: int) -> Sample:
        listed = self._listed[row]
        try:
            data = patiently(self._records.datasets.read)(self._tenant, self._dataset, listed)
        except NotFound as error:
            raise PhotosChanged from error
        return Sample(listed.image.label, listed.image.name, data)

    def _decode(self, sample: Sample) -> Pixels:
        try:
            return decode_image(sample.data, self._clip.spec, self._limits)
        except BadImage as error:
            raise BadDataset(f"{sample.label}/{sample.name}: {error}") from error
