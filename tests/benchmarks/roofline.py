"""What a card should give, by arithmetic: no figure here is measured.

python -m tests.benchmarks.roofline [MODEL]

Every operation of a batch is counted on a fake card, with its floating-point operations and the
bytes that it reads and writes. An operation takes as long as the slower of the two at the card's
published rates, of which products reach a share, and no less than a kernel's shortest time. The
host needs a while to start each; a CUDA graph starts all of them at once.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from adapters.bank import Bank
from adapters.clip import FrozenCLIP, Precision, load_clip
from tests.support.fake_card import fake_card
from training.fit import default_settings

_FREE = ("device", "_unsafe_view")  # no kernel, though their results are no views
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PRODUCTS = 0.6  # share of the published rate that large matrix products reach
SHORTEST = 2e-6  # seconds of any kernel on the card
START = 6e-6  # seconds of the host for PyTorch to start one


@dataclass(frozen=True, slots=True)
class Card:
    """A card's published rates, without sparsity."""

    name: str
    flops: float  # bf16 products, a second
    bytes: float  # memory, a second


H100 = Card("H100 SXM", 989e12, 3.35e12)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation of a batch."""

    name: str
    flops: int
    bytes: int

    def seconds(self, card: Card) -> float:
        """On the card alone."""
        products = self.flops / (card.flops * PRODUCTS)
        return max(products, self.bytes / card.bytes, SHORTEST)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        view = any(r.alias_info and not r.alias_info.is_write for r in returned)
        if not view and func.overloadpacket.__name__ not in _FREE:
            packet, tensors = func.overloadpacket, _tensors((args, kwargs, out))
            known = flop_registry.get(packet)
            flops = known(*args, **(kwargs or {}), out_val=out) if known else 0
            size = sum(t.numel() * t.element_size() for t in tensors)
            self.kernels.append(Kernel(packet.__name__, flops, size))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def kernels_of(clip: FrozenCLIP, bank: Bank, rows: int, adapters: int) -> list[Kernel]:
    """The operations of a batch of pictures on so many adapters; within a fake card."""
    size, first = clip.spec.size, bank.image.first
    pixels = torch.empty(rows, 3, size, size, dtype=torch.uint8, device="cuda")
    slots = [i % adapters + 1 for i in range(rows)] if adapters else [0] * rows
    attend = "adapters.attention.F.scaled_dot_product_attention"
    with patch(attend, _flash), _Counting() as counting:
        clip.image_upper(clip.image_lower(pixels, first), first, bank.image.delta(slots))
    return counting.kernels


def _flash(q: Tensor, k: Tensor, v: Tensor, attn_mask: None) -> Tensor:
    """The kernel that a card takes; a fake one takes the plain operations instead."""
    seen: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return seen


@dataclass(frozen=True, slots=True)
class Estimate:
    """A batch on a card."""

    rows: int
    kernels: int
    flops: int
    bytes: int
    eager: float  # seconds
    graph: float

    @property
    def bound(self) -> str:
        """What an eager batch waits for."""
        return "starting kernels" if self.eager > self.graph else "the card"


def estimate(clip: FrozenCLIP, bank: Bank, rows: int, adapters: int, card: Card) -> Estimate:
    """Within a fake card."""
    kernels = kernels_of(clip, bank, rows, adapters)
    on_card = sum(kernel.seconds(card) for kernel in kernels)
    host = len(kernels) * START
    flops, size = sum(k.flops for k in kernels), sum(k.bytes for k in kernels)
    return Estimate(rows, len(kernels), flops, size, max(on_card, host), on_card)


def estimates(name: str, precision: Precision = "bf16") -> Iterator[tuple[int, Estimate]]:
    """(adapters of a batch, its estimate): one adapter in all rows, and one of its own in each."""
    clip = load_clip(name)
    place = default_settings(clip).adapter
    first = place.image_first, place.text_first
    with fake_card():
        clip.move("cuda", precision)
        bank = Bank(clip.image, clip.text, 129, place.rank, *first, clip.device, clip.dtype)
        for rows in BATCHES:
            for adapters in dict.fromkeys((1, rows)):
                yield adapters, estimate(clip, bank, rows, adapters, H100)


def main(name: str) -> None:
    """Prints the table."""
    title = f"{name} in bf16 on one {H100.name}: a model, not measured"
    table = Table(title=title)
    columns = ("pictures", "adapters", "kernels", "GFLOP each", "MB each", "eager/s", "graph/s")
    for column in (*columns, "eager waits for"):
        table.add_column(column, justify="right", no_wrap=True)
    for adapters, e in estimates(name):
        table.add_row(
            str(e.rows),
            str(adapters),
            str(e.kernels),
            f"{e.flops / e.rows / 1e9:.1f}",
            f"{e.bytes / e.rows / 1e6:.0f}",
            f"{e.rows / e.eager:,.0f}",
            f"{e.rows / e.graph:,.0f}",
            e.bound,
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ViT-B-16")
