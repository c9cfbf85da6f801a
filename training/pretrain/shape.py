"""The towers' shape and their initialisation.

Both towers start from known models, as far as their shape allows. A text's feature starts as the
sum of its tokens' places; an image's as a ridge regression from the mean of the stem's map. So that
the mean passes through the blocks, the first block starts as uniform attention that copies its
input, and the others add almost nothing. Layer norm divides by a token's standard deviation; a
constant pattern in the residual stream keeps it close to linear (`alternating`).
"""

from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor

IMAGE_WIDTH, TEXT_WIDTH, DIM = 320, 256, 384
MODEL_CFG = {
    "embed_dim": DIM,
    "vision_cfg": {
        "image_size": 224,
        "layers": 6,
        "width": IMAGE_WIDTH,
        "head_width": 64,
        "patch_size": 32,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": TEXT_WIDTH,
        "heads": 4,
        "layers": 4,
    },
}


def new_clip() -> CLIP:
    """A CLIP of the bundled shape, its patch embedding still open_clip's own."""
    return CLIP(**MODEL_CFG)


@torch.no_grad()
def start_as_mean(blocks: Any, gain: float) -> None:
    """Makes the first block add `gain` times its tokens' mean, and the rest almost nothing."""
    for at, block in enumerate(blocks):
        width = block.attn.out_proj.weight.shape[0]
        block.mlp.c_proj.weight.mul_(0.1)
        if at > 0:
            block.attn.out_proj.weight.mul_(0.1)
            continue
        block.attn.in_proj_weight[: 2 * width].mul_(0.3)
        block.attn.in_proj_weight[2 * width :].copy_(torch.eye(width))
        block.attn.out_proj.weight.copy_(gain * torch.eye(width))


def alternating(width: int) -> Tensor:
    """The constant pattern of the residual stream, [width] of -1 and 1, with mean 0."""
    return torch.tensor([-1.0, 1.0]).repeat(width // 2)


def ridge(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """W [d, k] that minimises |xW - y|^2 + strength * n * mean(x^2) * |W|^2, for [n, d], [n, k]."""
    gram = x.T @ x
    gram += strength * gram.diagonal().mean() * torch.eye(len(gram))
    solved: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solved
