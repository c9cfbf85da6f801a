"""RMAdapter: a dual-branch adapter beside a transformer block, and its losses.

Lin, Li, Guo, Wang, Huang: RMAdapter, AAAI 2026 (arXiv 2512.06811), equations (8)–(18).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.config import AdapterConfig, LossWeights, TowerShape


class RMAdapter(nn.Module):
    """One block's adapter: width d, bottleneck r, σ = GELU.

    The up-projection starts at zero, so that a new adapter is exactly the frozen CLIP.
    """

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        rank, hidden = config.rank, config.reconstruction_layers - 1
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        self.rec_down = None if config.shared_down else nn.Linear(width, rank)
        self.rec_hidden = nn.ModuleList(nn.Linear(rank, rank) for _ in range(hidden))
        self.rec_up = nn.Linear(rank, width)
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.up.weight)
        if config.up_std:
            nn.init.normal_(self.up.weight, std=config.up_std)

    def forward(self, x: Tensor) -> Tensor:
        """The adaptation branch, equations (8) and (9): [..., d] → [..., d]."""
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]

    def reconstruct(self, x: Tensor) -> Tensor:
        """The reconstruction branch, equations (8) and (10): [..., d] → [..., d]."""
        down = self.down if self.rec_down is None else self.rec_down
        h = F.gelu(down(x))
        for layer in self.rec_hidden:
            h = F.gelu(layer(h))
        return self.rec_up(h)  # type: ignore[no-any-return]


class TowerAdapters(nn.Module):
    """The adapters of one encoder, in blocks `first`…K."""

    def __init__(self, shape: TowerShape, first: int, config: AdapterConfig) -> None:
        super().__init__()
        self.first = first
        self.alpha = config.alpha
        self.blocks = nn.ModuleList(
            RMAdapter(shape.width, config) for _ in range(first, shape.blocks + 1)
        )

    def at(self, block: int) -> RMAdapter | None:
        """The adapter in `block` (from 1), or None below the first one."""
        adapter = self.blocks[block - self.first] if block >= self.first else None
        assert adapter is None or isinstance(adapter, RMAdapter)
        return adapter

    def delta(self, block: int, x: Tensor) -> Tensor | None:
        """α · base(x), what equations (14) and (15) add to the block's output; in float32."""
        adapter = self.at(block)
        return None if adapter is None else self.alpha * adapter(x.float())


class CLIPAdapters(nn.Module):
    """The adapters of both encoders: everything that trains."""

    def __init__(self, image: TowerShape, text: TowerShape, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.image = TowerAdapters(image, config.image_first, config)
        self.text = TowerAdapters(text, config.text_first, config)


def reconstruction_error(adapter: RMAdapter, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """‖z − rec(z)‖² / ‖z‖² over the tokens of one block, equations (11)–(13); a scalar.

    Args:
        adapter: the block's adapter.
        x: the block's input z, [B, T, d]. It is detached: the loss is local to its layer.
        mask: bool [B, T], the tokens that count (text: those up to end-of-text); None: all.
    """
    z = x.detach().float()
    error = (z - adapter.reconstruct(z)).square().sum(-1)  # [B, T]
    energy = z.square().sum(-1)  # [B, T]
    if mask is not None:
        error, energy = error * mask, energy * mask
    return error.sum() / energy.sum()


class Reconstruction:
    """A tower's delta that also adds up the reconstruction error of each block it passes."""

    def __init__(self, tower: TowerAdapters, mask: Tensor | None = None) -> None:
        self.tower = tower
        self.mask = mask
        self.error: Tensor | float = 0.0

    def __call__(self, block: int, x: Tensor) -> Tensor | None:
        """What the block's adapter adds; its reconstruction error is added to `error`."""
        adapter = self.tower.at(block)
        if adapter is not None:
            self.error = self.error + reconstruction_error(adapter, x, self.mask)
        return self.tower.delta(block, x)


def consistency_error(adapted: Tensor, frozen: Tensor) -> Tensor:
    """Σ_d |x_a − x| between unit features [N, e], equation (17), averaged over N; a scalar."""
    return (adapted - frozen).abs().sum(-1).mean()


class TowerOutput(NamedTuple):
    """What the losses need of one tower: unit features [N, e] twice, and a scalar."""

    adapted: Tensor
    frozen: Tensor
    reconstruction_error: Tensor | float


def total_loss(
    logits: Tensor, labels: Tensor, weights: LossWeights, image: TowerOutput, text: TowerOutput
) -> Tensor:
    """L = L_ce + L_con + L_rec, equations (16)–(18); a scalar.

    Args:
        logits: [B, C] cosine similarities over the temperature.
        labels: int64 [B].
        weights: λ1 to λ4.
        image: the image tower's output.
        text: the text tower's output.
    """
    consistency = weights.image_consistency * consistency_error(image.adapted, image.frozen)
    consistency = consistency + weights.text_consistency * consistency_error(
        text.adapted, text.frozen
    )
    reconstruction = (
        weights.image_reconstruction * image.reconstruction_error
        + weights.text_reconstruction * text.reconstruction_error
    )
    return torch.add(F.cross_entropy(logits, labels) + consistency, reconstruction)
