"""The configuration of an adapter: its blocks, its rank and the weights of its losses.

The paper leaves most of these values open. The reason for each default stands beside it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from adapters.errors import RMAdapterError


@dataclass(frozen=True, slots=True)
class TowerShape:
    """One encoder of a CLIP: `blocks` transformer blocks of `width` dimensions."""

    width: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The architecture of one RMAdapter over both towers. Blocks count from 1, as in the paper."""

    image_first: int  # k: adapters sit in image blocks k…K
    text_first: int  # the same for the text tower
    rank: int = 32  # r, MMA's published setting, which fits the paper's "about 320K"
    alpha: float = 1.0  # scale of the adaptation branch, equations (14) and (15). The
    # up-projection starts at zero, and AdamW's step does not depend on the gradient's scale, so
    # no gradient scaling is needed (measured: tests/benchmarks/gradient_scaling.py)
    reconstruction_layers: int = 2  # eq. (10); the paper's ablation has one, two, three
    up_std: float = 0.0  # initial std of the up-projection; 0: the frozen CLIP; 0.02 is no better
    shared_down: bool = True  # eq. (8); the paper's ablation has independent projections

    def __post_init__(self) -> None:
        if min(self.image_first, self.text_first, self.rank, self.reconstruction_layers) < 1:
            raise RMAdapterError("first blocks, rank and reconstruction layers start at 1")

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a manifest keeps them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """λ1…λ4 of equations (11)–(13) and (17).

    λ1 and λ2 weigh a *relative* squared error, ‖z − rec(z)‖² / ‖z‖² averaged over a block's tokens
    and summed over blocks, so that their meaning depends neither on the model's scale nor on its
    width. λ3 and λ4 weigh the sum over dimensions of |x_a − x| between unit vectors, averaged over
    the batch or the classes.
    """

    image_reconstruction: float = 0.1  # λ1
    text_reconstruction: float = 0.1  # λ2
    image_consistency: float = 0.1  # λ3; both at 0 cost 3.7 points on held-out tiny_imagenet, both
    text_consistency: float = 0.1  # λ4; at 0.5 cost 3 on PACS drawings (python -m training.search)

    def to_dict(self) -> dict[str, float]:
        """Its fields, as a manifest keeps them."""
        return asdict(self)
