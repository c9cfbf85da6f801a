"""The peers: what else one could fit on the same frozen CLIP from the same pictures.

Every method takes a `Pool` and gives a `Fitted`. A pool holds the input of the first block, so that
pictures pass the patch embedding (the bundled CLIP's costly part) once for all methods.

Where a method is bound to the classes that it was fitted on (LP++, Tip-Adapter-F), other names get
the frozen CLIP's zero-shot answer: their papers give no other path.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from adapters.classify import prompts
from adapters.clip import BUNDLED, Delta, FrozenCLIP
from adapters.config import TowerShape
from adapters.errors import RMAdapterError, UnsupportedModel
from adapters.rmadapter import CLIPAdapters
from training.data import ImageSet
from training.fit import (
    FitSettings,
    Prepared,
    class_features,
    default_settings,
    first_block,
    fit_rows,
    freeze,
    prepare_classes,
    text_features,
)

METHODS = ("zero-shot", "lp++", "tip-adapter-f", "clip-lora", "mma", "rmadapter")

_CHUNK = 64  # pictures through the frozen blocks at a time
_KEEP_BYTES = 2 << 30  # tokens above this are computed anew each time: ViT-B/16 at 3,500 pictures


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures that many methods read: pixels, and the input of block 1 where it fits in memory."""

    images: ImageSet
    tokens: Tensor | None  # float32 [N, T, d] on the device
    features: Tensor  # frozen unit features, float32 [N, e] on the device

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    def take(self, rows: Tensor) -> "Pool":
        """The pictures at `rows`, int64 [M]; the classes stay."""
        at = rows.to(self.features.device)
        tokens = None if self.tokens is None else self.tokens[at]
        return Pool(self.images.take(rows), tokens, self.features[at])

    def only(self, first: int, last: int) -> "Pool":
        """The classes first…last−1, labels counted anew from 0."""
        rows = ((self.labels >= first) & (self.labels < last)).nonzero().squeeze(1)
        part = self.take(rows)
        named = ImageSet(part.images.pixels, part.labels - first, self.classes[first:last])
        return replace(part, images=named)

    def chunks(self, clip: FrozenCLIP) -> Iterator[Tensor]:
        """The input of block 1, [≤64, T, d] at a time."""
        if self.tokens is not None:
            yield from self.tokens.split(_CHUNK)
            return
        for pixels in self.images.pixels.split(_CHUNK):
            yield clip.image_lower(pixels, 1)


@torch.no_grad()
def make_pool(clip: FrozenCLIP, images: ImageSet) -> Pool:
    """Runs the pictures through the frozen CLIP, once."""
    tokens: list[Tensor] = []
    features: list[Tensor] = []
    keep = True
    for pixels in images.pixels.split(_CHUNK):
        lower = clip.image_lower(pixels, 1)
        features.append(clip.image_upper(lower, 1))
        keep = keep and lower[0].nbytes * len(images) <= _KEEP_BYTES
        if keep:
            tokens.append(lower)
    return Pool(images, torch.cat(tokens) if keep else None, torch.cat(features))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted method: how many numbers it trained, and (pool, class names) → logits [N, C]."""

    parameters: int
    cosines: Callable[[Pool, Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True)
class LPSettings:
    """LP++ (Huang et al., CVPR 2024): full-batch steps; step sizes follow from the features."""

    steps: int = 300
    alpha_every: int = 10  # steps between two steps of α, as in the authors' code
    alpha_scale: float = 250.0  # α starts at this times the mean similarity to the own class's text


@dataclass(frozen=True, slots=True)
class TipSettings:
    """Tip-Adapter-F (Zhang et al., ECCV 2022), its published settings."""

    alpha: float = 1.0
    beta: float = 5.5
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    search: bool = True  # α and β on a quarter of the *training* pictures; the paper: a val split


@dataclass(frozen=True, slots=True)
class LoRASettings:
    """CLIP-LoRA (Zanella & Ben Ayed, CVPRW 2024): r = 2 on q, k, v of all blocks of both towers."""

    rank: int = 2
    dropout: float = 0.25
    steps_per_shot: int = 500
    batch_size: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class MMASettings:
    """MMA (Yang et al., CVPR 2024): its published settings, and its code's where the paper says
    nothing. Adapters sit in blocks 5…12 of 12, RMAdapter's upper two thirds; pictures are cropped
    and flipped at random."""

    rank: int = 32
    alpha: float = 1e-3
    epochs: int = 5
    batch_size: int = 16  # its code: 128 on ImageNet
    learning_rate: float = 1.5e-3  # of SGD, between gradient scalings: as 1.5 without them
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """All methods' settings; `fit` is RMAdapter's."""

    fit: FitSettings
    lp: LPSettings = field(default_factory=LPSettings)
    tip: TipSettings = field(default_factory=TipSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    mma: MMASettings = field(default_factory=MMASettings)


def method_settings(clip: FrozenCLIP) -> MethodSettings:
    """The defaults for a CLIP: the peers' are their papers', but that MMA's rate, whose meaning
    depends on a model's scale, was searched for the bundled CLIP as RMAdapter's settings were."""
    mma = MMASettings(learning_rate=5e-3) if clip.name == BUNDLED else MMASettings()
    return MethodSettings(default_settings(clip), mma=mma)


def fit_method(
    name: str, clip: FrozenCLIP, train: Pool, settings: MethodSettings, seed: int
) -> Fitted:
    """Fits one of `METHODS` on the pool's classes, deterministic under the seed.

    Raises:
        RMAdapterError: no such method.
    """
    if name not in METHODS:
        raise RMAdapterError(f"no method {name!r}; there are {', '.join(METHODS)}")
    if name == "zero-shot":
        return zero_shot(clip, settings)
    if name == "lp++":
        return fit_lp(clip, train, settings)
    if name == "tip-adapter-f":
        return fit_tip(clip, train, settings, seed)
    if name == "clip-lora":
        return fit_lora(clip, train, settings, seed)
    if name == "mma":
        return fit_mma(clip, train, settings, seed)
    return fit_adapters(clip, train, replace(settings.fit, seed=seed))


def zero_shot(clip: FrozenCLIP, settings: MethodSettings) -> Fitted:
    """The frozen CLIP's own answers."""
    return Fitted(0, _frozen(clip, settings.fit.template))


def _frozen(clip: FrozenCLIP, template: str) -> Callable[[Pool, Sequence[str]], Tensor]:
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        return pool.features @ class_features(clip, None, classes, template).T

    return cosines


def _adapted(
    clip: FrozenCLIP, template: str, see: Delta | None = None, read: Delta | None = None
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """Both towers run with what the deltas add to their blocks' outputs."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        seen = torch.cat([clip.image_upper(tokens, 1, see) for tokens in pool.chunks(clip)])
        return seen @ text_features(clip, classes, template, read).T

    return cosines


def _bound(
    clip: FrozenCLIP, train: Pool, template: str, logits: Callable[[Tensor], Tensor]
) -> Callable[[Pool, Sequence[str]], Tensor]:
    """`logits` for the fitted classes, zero-shot for any others."""

    @torch.no_grad()
    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        if tuple(classes) == train.classes:
            return logits(pool.features)
        return _frozen(clip, template)(pool, classes)

    return cosines


# LP++


class LinearProbe(nn.Module):
    """LP++'s head: logits = f·W + b + α ∘ f·T, with one α a class.

    W starts at the classes' sums of features (the class mean times the shots) and α at
    250 · mean similarity of pictures to their own class's text, as in the authors' code.
    """

    def __init__(self, features: Tensor, labels: Tensor, text: Tensor, scale: float) -> None:
        super().__init__()
        one_hot = F.one_hot(labels, len(text)).float()  # [N, C]
        own = (features @ text.T * one_hot).sum(0) / one_hot.sum(0)  # [C]
        self.weight = nn.Parameter(one_hot.T @ features)  # [C, e]
        self.bias = nn.Parameter(torch.zeros(len(text), device=text.device))
        self.alpha = nn.Parameter(torch.full_like(own, scale * own.mean().item()))
        self.register_buffer("text", text)

    def forward(self, features: Tensor) -> Tensor:
        """Unit features [N, e] → logits [N, C]."""
        text = self.alpha * (features @ self.get_buffer("text").T)
        return F.linear(features, self.weight, self.bias) + text


def fit_lp(clip: FrozenCLIP, train: Pool, settings: MethodSettings) -> Fitted:
    """LP++: full-batch gradient steps whose sizes are bounds on the loss's curvature."""
    plan, template = settings.lp, settings.fit.template
    features, labels = train.features, train.labels.to(clip.device)
    text = class_features(clip, None, train.classes, template).clone()
    probe = LinearProbe(features, labels, text, plan.alpha_scale)
    n = len(features)
    weight_step = 4 * n / float(torch.linalg.eigvalsh(features.T @ features).max())
    alpha_step = n / (4 * float((features @ text.T).square().sum(0).max()))
    optimiser = torch.optim.SGD([probe.weight, probe.bias], weight_step, momentum=0.9)
    for step in range(1, plan.steps + 1):
        optimiser.zero_grad()
        F.cross_entropy(probe(features), labels).backward()
        optimiser.step()
        if step % plan.alpha_every == 0 and probe.alpha.grad is not None:
            with torch.no_grad():  # its gradient is never set to zero, as in their code
                probe.alpha.sub_(alpha_step * probe.alpha.grad)
    return Fitted(sum(p.numel() for p in probe.parameters()), _bound(clip, train, template, probe))


# Tip-Adapter-F


def cache_logits(
    features: Tensor, keys: Tensor, values: Tensor, alpha: float, beta: float
) -> Tensor:
    """α · exp(−β(1 − f·Kᵀ)) · V: unit [N, e], [M, e], one-hot [M, C] → [N, C]."""
    return alpha * torch.exp(-beta * (1 - features @ keys.T)) @ values


def fit_tip(clip: FrozenCLIP, train: Pool, settings: MethodSettings, seed: int) -> Fitted:
    """Tip-Adapter-F: the cache's keys start at the pictures' features, and are trained."""
    plan, template = settings.tip, settings.fit.template
    features, labels = train.features, train.labels.to(clip.device)
    text = class_features(clip, None, train.classes, template)
    values = F.one_hot(labels, len(text)).float()
    frozen = clip.logit_scale * features @ text.T
    alpha, beta = plan.alpha, plan.beta
    if plan.search:
        alpha, beta = _search(features, frozen, values, plan)
    keys = nn.Parameter(features.clone())
    generator = torch.Generator().manual_seed(seed)
    steps = plan.epochs * math.ceil(len(features) / plan.batch_size)
    optimiser = torch.optim.AdamW([keys], plan.learning_rate, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(features), generator=generator).split(plan.batch_size):
            at = rows.to(clip.device)
            logits = frozen[at] + cache_logits(features[at], keys, values, alpha, beta)
            optimiser.zero_grad()
            F.cross_entropy(logits, labels[at]).backward()
            optimiser.step()
            schedule.step()

    def logits_of(seen: Tensor) -> Tensor:
        scaled = clip.logit_scale * seen @ text.T
        return scaled + cache_logits(seen, keys, values, alpha, beta)

    return Fitted(keys.numel(), _bound(clip, train, template, logits_of))


def _search(
    features: Tensor, frozen: Tensor, values: Tensor, plan: TipSettings
) -> tuple[float, float]:
    """The α, β of the best accuracy of an untrained cache of three quarters on the last quarter."""
    labels = values.argmax(1)
    before = (values.cumsum(0) * values).sum(1) - 1  # how many of its class come before: [N]
    share = values.sum(0)[labels]
    held = before >= torch.ceil(0.75 * share)
    if not held.any():
        return plan.alpha, plan.beta
    best = (-1.0, plan.alpha, plan.beta)
    for beta in torch.linspace(0.5, 12, 24).tolist():
        for alpha in torch.linspace(0.1, 5, 20).tolist():
            cache = cache_logits(features[held], features[~held], values[~held], alpha, beta)
            right = ((frozen[held] + cache).argmax(1) == labels[held]).float().mean().item()
            if right > best[0]:
                best = (right, alpha, beta)
    return best[1], best[2]


# CLIP-LoRA


class LoRAAttention(nn.Module):
    """A frozen nn.MultiheadAttention with low-rank updates of q, k, v: W + B·A/√r, B from zero."""

    def __init__(self, frozen: nn.MultiheadAttention, plan: LoRASettings) -> None:
        super().__init__()
        width, rank = frozen.embed_dim, plan.rank
        self.down = nn.Parameter(torch.empty(3, rank, width))
        self.up = nn.Parameter(torch.zeros(3, width, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        self.dropout, self.scale = nn.Dropout(plan.dropout), 1 / math.sqrt(rank)
        self._frozen = [frozen]  # in a list: no parameter of ours

    @property
    def num_heads(self) -> int:
        return int(self._frozen[0].num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention, [B, Q, d] and twice [B, T, d] → [B, Q, d], as the replaced module returns it.

        Args:
            attn_mask: [Q, T], or [B · heads, Q, T].
        """
        frozen = self._frozen[0]
        weights, biases = frozen.in_proj_weight.chunk(3), frozen.in_proj_bias.chunk(3)
        parts = []
        for i, x in enumerate((query, key, value)):
            low = self.dropout(x) @ self.down[i].T @ self.up[i].T
            part = F.linear(x, weights[i], biases[i]) + self.scale * low
            parts.append(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2))
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        q, k, v = parts
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return frozen.out_proj(seen.transpose(1, 2).flatten(2)), None


class LoRA(nn.Module):
    """The updates of all blocks of both towers.

    Raises:
        UnsupportedModel: a block whose attention is not an nn.MultiheadAttention with joint q, k, v
            weights, which would go unadapted without a word.
    """

    def __init__(self, clip: FrozenCLIP, plan: LoRASettings) -> None:
        super().__init__()
        visual = clip.model.visual.transformer.resblocks
        self._blocks = [[*visual, *clip.model.transformer.resblocks]]
        for block in self._blocks[0]:
            attention = getattr(block, "attn", None)
            if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
                raise UnsupportedModel(
                    "a block's attention has no in_proj_weight for LoRA to adapt"
                )
        self.attentions = nn.ModuleList(LoRAAttention(b.attn, plan) for b in self._blocks[0])
        self.to(clip.device)

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Puts the updated attention in place; the frozen CLIP is itself again after."""
        frozen = [block.attn for block in self._blocks[0]]
        try:
            for block, attention in zip(self._blocks[0], self.attentions, strict=True):
                block.attn = attention
            yield
        finally:
            for block, attention in zip(self._blocks[0], frozen, strict=True):
                block.attn = attention


def fit_lora(clip: FrozenCLIP, train: Pool, settings: MethodSettings, seed: int) -> Fitted:
    """CLIP-LoRA: cross-entropy alone, AdamW under a cosine, no augmentation (the paper has one)."""
    plan, adapted = settings.lora, _adapted(clip, settings.fit.template)
    torch.manual_seed(seed)
    lora = LoRA(clip, plan)
    shots = int(train.labels.bincount().max())
    _train_lora(clip, lora, train, settings, plan.steps_per_shot * shots)
    lora.eval()

    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        with lora.injected():
            return adapted(pool, classes)

    return Fitted(sum(p.numel() for p in lora.parameters()), cosines)


def _train_lora(
    clip: FrozenCLIP, lora: LoRA, train: Pool, settings: MethodSettings, steps: int
) -> None:
    plan = settings.lora
    labels = train.labels.to(clip.device)
    with torch.no_grad():
        tokens = torch.cat(list(train.chunks(clip)))
        ids = clip.tokenize(prompts(train.classes, settings.fit.template))
        words = clip.text_lower(ids, 1)
    optimiser = torch.optim.AdamW(
        lora.parameters(), plan.learning_rate, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps), eta_min=1e-6)
    order: list[Tensor] = []
    lora.train()
    with lora.injected():
        for _ in range(steps):
            order = order or list(torch.randperm(len(train)).split(plan.batch_size))
            rows = order.pop().to(clip.device)
            seen, named = clip.image_upper(tokens[rows], 1), clip.text_upper(words, ids, 1)
            loss = F.cross_entropy(clip.logit_scale * seen @ named.T, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


# MMA


class Scaled(torch.autograd.Function):
    """x forward, factor · gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class MMA(nn.Module):
    """Adapters in the upper blocks of both towers, their bottlenecks through one shared projection.

    y = α · up(σ(shared(σ(down(ln_1(x)))))), σ = ReLU, is added to the block's output. The shared
    projections pair the towers' blocks from the top, where their depths differ.
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
        """What `bottlenecks`, one of the two towers', add to the outputs of its frozen `blocks`.

        Going back, the gradient is multiplied by 1/α behind the adapter and by α before it, as in
        the authors' code: lower blocks get their true gradient, its own weights 1/α times theirs.
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
    """(down, up) of the blocks K, K−1, …, k."""
    return nn.ModuleList(
        nn.ModuleList([nn.Linear(shape.width, rank), nn.Linear(rank, shape.width)])
        for _ in range(first_block(shape), shape.blocks + 1)
    )


def fit_mma(clip: FrozenCLIP, train: Pool, settings: MethodSettings, seed: int) -> Fitted:
    """MMA: cross-entropy alone, SGD whose rate follows a cosine from epoch to epoch."""
    torch.manual_seed(seed)
    mma = MMA(clip.image, clip.text, settings.mma).to(clip.device)
    see = mma.delta(mma.image, clip.model.visual.transformer.resblocks)
    read = mma.delta(mma.text, clip.model.transformer.resblocks)
    _train_mma(clip, mma, (see, read), train, settings)
    cosines = _adapted(clip, settings.fit.template, see, read)
    return Fitted(sum(p.numel() for p in mma.parameters()), cosines)


def _train_mma(
    clip: FrozenCLIP, mma: MMA, deltas: tuple[Delta, Delta], train: Pool, settings: MethodSettings
) -> None:
    plan, labels, (see, read) = settings.mma, train.labels.to(clip.device), deltas
    first, first_text = first_block(clip.image), first_block(clip.text)
    ids = clip.tokenize(prompts(train.classes, settings.fit.template))
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
    """A random part of each picture, at its size, flipped or not: uint8 [B, 3, S, S] → the same."""
    crop = v2.RandomResizedCrop(pixels.shape[-1], interpolation=v2.InterpolationMode.BICUBIC)
    change = v2.Compose([crop, v2.RandomHorizontalFlip()])
    return torch.stack([change(picture) for picture in pixels])


# RMAdapter


def fit_adapters(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Fitted:
    """RMAdapter, as a tenant's own fit."""
    fitted = fit_rows(clip, prepare_pool(clip, train, settings), torch.arange(len(train)))
    fitted.requires_grad_(False)
    cosines = _adapted(clip, settings.template, fitted.image.delta, fitted.text.delta)
    losses = settings.losses
    reconstructs = losses.image_reconstruction > 0 or losses.text_reconstruction > 0
    return Fitted(trained_parameters(fitted, reconstructs), cosines)


def trained_parameters(adapters: CLIPAdapters, reconstructs: bool) -> int:
    """How many numbers train: without a reconstruction loss, `down` and `up` alone."""
    return sum(
        value.numel()
        for name, value in adapters.named_parameters()
        if reconstructs or ".rec_" not in name
    )


@torch.no_grad()
def prepare_pool(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Prepared:
    """As `training.fit.prepare`, from a pool's tokens."""
    first = settings.adapter.image_first
    images = freeze(clip, (clip.image_between(x, 1, first) for x in train.chunks(clip)), first)
    return prepare_classes(clip, train.classes, images, train.labels, settings)
