"""Many adapters on one CLIP: stacked tensors, one slot per adapter, any slot for any batch row.

Slot 0 is zero, so it gives exactly the frozen CLIP. Adapters of a smaller rank or a later first
block are padded with zeros. The padding is exact, since GELU(0) = 0. α is folded into the
up-projection, in float32; the slots hold the type that the CLIP computes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.clip import Delta, FrozenCLIP
from adapters.config import TowerShape
from adapters.errors import DoesNotFit
from adapters.rmadapter import CLIPAdapters, TowerAdapters

FROZEN = 0  # the slot of the frozen CLIP


@dataclass(frozen=True, slots=True)
class TowerWeights:
    """The adaptation branch of one tower's n adapters, α folded in; no reconstruction branch."""

    first: int  # the block of the first adapter, from 1
    down: Tensor  # [n, d, r]
    down_bias: Tensor  # [n, r]
    up: Tensor  # [n, r, d]
    up_bias: Tensor  # [n, d]

    @property
    def rank(self) -> int:
        """The bottleneck's width r."""
        return self.down.shape[2]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """The part of an adapter that serving needs: the terms of equations (14) and (15)."""

    image: TowerWeights
    text: TowerWeights


def export(adapters: CLIPAdapters) -> AdapterWeights:
    """Drops the reconstruction branch and folds α in; the features stay the same."""
    return AdapterWeights(_export_tower(adapters.image), _export_tower(adapters.text))


def no_adapter(clip: FrozenCLIP) -> AdapterWeights:
    """The smallest adapter, which changes nothing: all features are the frozen CLIP's."""

    def tower(shape: TowerShape) -> TowerWeights:
        d = shape.width
        sizes = ((1, d, 1), (1, 1), (1, 1, d), (1, d))
        return TowerWeights(shape.blocks, *(torch.zeros(size) for size in sizes))

    return AdapterWeights(tower(clip.image), tower(clip.text))


def _export_tower(tower: TowerAdapters) -> TowerWeights:
    blocks = [tower.at(tower.first + i) for i in range(len(tower.blocks))]
    present = [block for block in blocks if block is not None]
    stack = [
        torch.stack([block.down.weight.T for block in present]),
        torch.stack([block.down.bias for block in present]),
        torch.stack([block.up.weight.T for block in present]) * tower.alpha,
        torch.stack([block.up.bias for block in present]) * tower.alpha,
    ]
    return TowerWeights(tower.first, *(t.detach().float().cpu().contiguous() for t in stack))


class TowerBank:
    """One tower's slots: down [S, n, d, r], up [S, n, r, d] and their biases, on the device."""

    def __init__(
        self,
        shape: TowerShape,
        first: int,
        rank: int,
        slots: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape, self.first, self.rank = shape, first, rank
        n, d = shape.blocks - first + 1, shape.width
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.down = torch.zeros(slots, n, d, rank, **place)
        self.down_bias = torch.zeros(slots, n, rank, **place)
        self.up = torch.zeros(slots, n, rank, d, **place)
        self.up_bias = torch.zeros(slots, n, d, **place)

    def check(self, weights: TowerWeights, tower: str) -> None:
        """Raises DoesNotFit, with the reason, before anything is written."""
        n, d, rank = weights.down.shape
        if d != self.shape.width or weights.first + n - 1 != self.shape.blocks:
            raise DoesNotFit(f"the {tower} tower has {self.shape}, the adapter another shape")
        if weights.first < self.first:
            raise DoesNotFit(
                f"its {tower} adapters start at block {weights.first}, the bank at {self.first}"
            )
        if rank > self.rank:
            raise DoesNotFit(f"its {tower} rank {rank} is above the bank's {self.rank}")

    def write(self, slot: int, weights: TowerWeights) -> None:
        """Writes an adapter into a slot and fills the rest of the slot with zeros.

        Args:
            slot: the slot's number.
            weights: an adapter that `check` has found to fit.
        """
        skip, rank = weights.first - self.first, weights.rank
        self.clear(slot)
        self.down[slot, skip:, :, :rank] = weights.down
        self.down_bias[slot, skip:, :rank] = weights.down_bias
        self.up[slot, skip:, :rank] = weights.up
        self.up_bias[slot, skip:] = weights.up_bias

    def clear(self, slot: int) -> None:
        """Fills a slot with zeros, so that it adds nothing."""
        for tensor in self.tensors():
            tensor[slot].zero_()

    def delta(self, slots: Sequence[int]) -> Delta | None:
        """What each row's adapter adds; row i of the batch uses slots[i]."""
        if all(slot == FROZEN for slot in slots):
            return None
        if len(set(slots)) == 1:
            down, down_bias, up, up_bias = (tensor[slots[0]] for tensor in self.tensors())
            return one_adapter(TowerWeights(self.first, down, down_bias, up, up_bias))
        return gathered(torch.tensor(slots, device=self.down.device), self.first, self.tensors())

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(down, down_bias, up, up_bias), all slots."""
        return self.down, self.down_bias, self.up, self.up_bias


def one_adapter(weights: TowerWeights) -> Delta:
    """What one adapter adds to every row, α folded in."""

    def delta(block: int, x: Tensor) -> Tensor | None:  # [B, T, d] → [B, T, d]
        i = block - weights.first
        if i < 0:
            return None
        h = F.gelu(x @ weights.down[i] + weights.down_bias[i])
        return h @ weights.up[i] + weights.up_bias[i]

    return delta


def gathered(slots: Tensor, first: int, bank: tuple[Tensor, Tensor, Tensor, Tensor]) -> Delta:
    """What each row's own adapter adds, by batched products of gathered weights.

    Args:
        slots: int64 [B], the slot of each row's adapter.
        first: the block of the bank's first adapter.
        bank: (down, down_bias, up, up_bias) of all slots.
    """
    down, down_bias, up, up_bias = bank

    def delta(block: int, x: Tensor) -> Tensor | None:  # [B, T, d] → [B, T, d]
        i = block - first
        if i < 0:
            return None
        into_bias, out_bias = down_bias[slots, i].unsqueeze(1), up_bias[slots, i].unsqueeze(1)
        h = F.gelu(torch.baddbmm(into_bias, x, down[slots, i]))
        return torch.baddbmm(out_bias, h, up[slots, i])

    return delta


class Bank:
    """The loaded adapters of both towers. Only the thread that owns the device writes it."""

    def __init__(
        self,
        image: TowerShape,
        text: TowerShape,
        slots: int,
        rank: int,
        image_first: int,
        text_first: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.slots = slots
        place = rank, slots, torch.device(device), dtype
        self.image = TowerBank(image, image_first, *place)
        self.text = TowerBank(text, text_first, *place)

    def check(self, weights: AdapterWeights) -> None:
        """Raises DoesNotFit, with the reason."""
        self.image.check(weights.image, "image")
        self.text.check(weights.text, "text")

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Puts an adapter into a slot. The whole adapter is checked before any tensor changes."""
        if not 0 < slot < self.slots:
            raise DoesNotFit(f"slot {slot} is not one of 1…{self.slots - 1}")
        self.check(weights)
        self.image.write(slot, weights.image)
        self.text.write(slot, weights.text)

    @staticmethod
    def slot_bytes(
        image: TowerShape,
        text: TowerShape,
        rank: int,
        image_first: int,
        text_first: int,
        dtype: torch.dtype = torch.float32,
    ) -> int:
        """Memory of one slot, bytes."""
        per_tower = (
            (shape.blocks - first + 1) * (2 * shape.width * rank + rank + shape.width)
            for shape, first in ((image, image_first), (text, text_first))
        )
        return dtype.itemsize * sum(per_tower)
