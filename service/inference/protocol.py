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

    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features:
        """Unit features of pictures, float32 [n, dimensions].

        Args:
            pixels: n pictures, uint8 [3, size, size] each.
            slots: the bank's slot for each of them.
        """

    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features:
        """Unit features of prompts, float32 [n, dimensions].

        Args:
            prompts: n texts.
            slots: the bank's slot for each of them.
        """

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Puts an adapter's weights into a slot of the bank."""

    def free_memory(self) -> None:
        """Gives back what memory of the device is kept for later batches."""

    def check(self) -> None:
        """Runs a blank picture and a prompt on the frozen CLIP; raises what the device raises."""

    def ping(self) -> None:
        """One small computation on the device; hangs if the device does."""
