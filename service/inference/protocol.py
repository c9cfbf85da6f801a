"""What a backend must do: rows of any tenants in, features out. Only the device thread calls it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adapters.bank import AdapterWeights
from adapters.pixels import Pixels

Features = NDArray[np.float32]  # [B, e], unit rows


class Backend(Protocol):
    """Row i of a batch runs on the adapter in slots[i]; slot 0 is the frozen CLIP."""

    name: str
    picture_size: int  # S of [3, S, S]

    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features: ...

    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features: ...

    def write(self, slot: int, weights: AdapterWeights) -> None: ...

    def check(self) -> None:
        """Runs a blank picture and a prompt on the frozen CLIP; raises what the device raises."""

    def ping(self) -> None:
        """One small computation on the device; hangs if the device does."""
