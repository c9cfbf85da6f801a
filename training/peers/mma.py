"""MMA (Yang et al., CVPR 2024): adapters whose bottlenecks share a projection."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from adapters.classify import prompts
from adapters.clip import Delta, FrozenCLIP
from adapters.config import TowerShape
from training.fit import first_block
from training.peers.pool import Fitted, Pool, adapted_cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class MMASettings:
    """MMA (Yang et al., CVPR 2024).

    These are the published settings, or those of the authors' code where the paper gives none.
    Adapters sit in blocks 5 to 12 of 12, as RMAdapter's do. Pictures are randomly cropped and
    flipped.
    """

    rank: int = 32
    alpha: float = 1e-3
    epochs: int = 5
    batch_size: int = 16  # the authors' code has 128 on ImageNet
    learning_rate: float = 1.5e-3  # of SGD; the gradient scaling makes it act as 1.5
    momentum: float = 0.9
    weight_decay: float = 5e-4


class Scaled(torch.autograd.Function):
    """x forward, factor · gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """Returns x, of any shape."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor; none for the factor."""
        return gradient * ctx.factor, None


class MMA(nn.Module):
    """Adapters in the upper blocks of both towers, with one shared projection per pair of blocks.

    y = α · up(σ(shared(σ(down(ln_1(x)))))), σ = ReLU, is added to the block's output. If the
    towers' depths differ, their blocks are paired from the top.
    """

    def __init__(self, image: TowerShape, text: TowerShape, plan: MMASettings) -> None:
        super().__init__()
        self.alpha = plan.alpha
        self.image, self.text = _bottlenecks(image, plan.rank), _bottlenecks(text, plan.rank)
        depth = max(len(self.image), len(self.text))
        self.shared = nn.ModuleList(nn.Linear(plan.rank, plan.rank) for _ in range(depth))
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(linear.bias)

    def delta(self, bottlenecks: nn.ModuleList, blocks: nn.ModuleList) -> Delta:
        """What one tower's `bottlenecks` add to the outputs of its frozen `blocks`.

        In the backward pass the gradient is multiplied by 1/α at the adapter's output and by α at
        its input, as in the authors' code. Lower blocks get their true gradient, and the adapter's
        own weights get 1/α times theirs.
        """

        def added(block: int, x: Tensor) -> Tensor | None:
            at = len(blocks) - block
            if at >= len(bottlenecks):
                return None
            down, up = bottlenecks[at].children()
            normed = blocks[block - 1].get_submodule("ln_1")(Scaled.apply(x, self.alpha))
            low = F.relu(down(normed))
            y = self.alpha * up(F.relu(self.shared[at](low)))
            return Scaled.apply(y, 1 / self.alpha)  # type: ignore[no-any-return]

        return added


def _bottlenecks(shape: TowerShape, rank: int) -> nn.ModuleList:
    """The (down, up) projections of blocks K, K−1, …, k."""
    return nn.ModuleList(
        nn.ModuleList([nn.Linear(shape.width, rank), nn.Linear(rank, shape.width)])
        for _ in range(first_block(shape), shape.blocks + 1)
    )


def fit_mma(clip: FrozenCLIP, train: Pool, template: str, plan: MMASettings, seed: int) -> Fitted:
    """MMA: cross-entropy, SGD with a cosine schedule by epoch."""
    torch.manual_seed(seed)
    mma = MMA(clip.image, clip.text, plan).to(clip.device)
    see = mma.delta(mma.image, clip.model.visual.transformer.resblocks)
    read = mma.delta(mma.text, clip.model.transformer.resblocks)
    _train_mma(clip, mma, (see, read), train, template, plan)
    cosines = adapted_cosines(clip, template, see, read)
    return Fitted(sum(p.numel() for p in mma.parameters()), cosines)


def _train_mma(
    clip: FrozenCLIP,
    mma: MMA,
    deltas: tuple[Delta, Delta],
    train: Pool,
    template: str,
    plan: MMASettings,
) -> None:
    labels, (see, read) = train.labels.to(clip.device), deltas
    first, first_text = first_block(clip.image), first_block(clip.text)
    ids = clip.tokenize(prompts(train.classes, template))
    with torch.no_grad():
        words = clip.text_lower(ids, first_text)
    optimiser = torch.optim.SGD(
        mma.parameters(), plan.learning_rate, plan.momentum, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.epochs)
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(train)).split(plan.batch_size):
            with torch.no_grad():
                tokens = clip.image_lower(augmented(train.images.pixels[rows]), first)
            seen = clip.image_upper(tokens, first, see)
            named = clip.text_upper(words, ids, first_text, read)
            loss = F.cross_entropy(clip.logit_scale * seen @ named.T, labels[rows.to(clip.device)])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()


def augmented(pixels: Tensor) -> Tensor:
    """A random crop of each picture, resized and maybe flipped: uint8 [B, 3, S, S] → the same."""
    crop = v2.RandomResizedCrop(pixels.shape[-1], interpolation=v2.InterpolationMode.BICUBIC)
    change = v2.Compose([crop, v2.RandomHorizontalFlip()])
    return torch.stack([change(picture) for picture in pixels])
