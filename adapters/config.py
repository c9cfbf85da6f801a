"""What shapes an adapter: where it sits, how wide it is, how its losses are weighed.

The paper leaves most of these open; every default here has its reason beside it.
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
    alpha: float = 1.0  # scale of the adaptation branch, equations (14) and (15); with an
    # up-projection from zero and AdamW, whose step does not depend on the gradient's scale, no
    # gradient scaling is needed (measured: tests/benchmarks/gradient_scaling.py)
    reconstruction_layers: int = 2  # eq. (10); the paper's ablation has one, two, three
    up_std: float = 0.0  # of the up-projection's start: 0, the frozen CLIP; 0.02 is no better
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
    image_consistency: float = 0.1  # λ3: none costs 3.7 points on held-out tiny_imagenet, 0.5 costs
    text_consistency: float = 0.1  # λ4: 3 on drawings of PACS (`python -m training.search`)

    def to_dict(self) -> dict[str, float]:
        """Its fields, as a manifest keeps them."""
        return asdict(self)
