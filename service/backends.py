"""What runs the model: rows of any tenants in, features out. The device's thread alone calls it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.bank import AdapterWeights, Bank
from adapters.clip import FrozenCLIP
from adapters.pixels import Pixels

Features = NDArray[np.float32]  # [B, e], unit rows


class Backend(Protocol):
    """Row i of a batch runs on the adapter in slots[i]; slot 0 is the frozen CLIP."""

    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features: ...

    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features: ...

    def write(self, slot: int, weights: AdapterWeights) -> None: ...

    def ping(self) -> None:
        """One small computation on the device; hangs if the device does."""


class TorchBackend:
    """The plain one: open_clip's modules, the bank's tensors beside them."""

    def __init__(self, clip: FrozenCLIP, bank: Bank) -> None:
        self._clip, self._bank = clip, bank
        self._image_first, self._text_first = bank.image.first, bank.text.first

    @torch.inference_mode()
    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features:
        rows = torch.from_numpy(np.stack(pixels))  # uint8 [B, 3, S, S]
        tokens = self._clip.image_lower(rows, self._image_first)
        delta = self._bank.image.delta(slots)
        return _array(self._clip.image_upper(tokens, self._image_first, delta))

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features:
        ids = self._clip.tokenize(list(prompts))
        tokens = self._clip.text_lower(ids, self._text_first)
        delta = self._bank.text.delta(slots)
        return _array(self._clip.text_upper(tokens, ids, self._text_first, delta))

    @torch.inference_mode()
    def write(self, slot: int, weights: AdapterWeights) -> None:
        self._bank.write(slot, weights)

    def ping(self) -> None:
        torch.ones(1, device=self._clip.device).sum().item()


def _array(features: torch.Tensor) -> Features:
    return features.cpu().numpy()
