"""CLIP-LoRA (Zanella & Ben Ayed, CVPRW 2024): low-rank updates of q, k, v in both towers."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attention import Attention, attended
from adapters.classify import prompts
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from training.peers.pool import Fitted, Pool, adapted_cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRASettings:
    """CLIP-LoRA (Zanella & Ben Ayed, CVPRW 2024): r = 2 on q, k, v of all blocks of both towers."""

    rank: int = 2
    dropout: float = 0.25
    steps_per_shot: int = 500
    batch_size: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.01


class LoRAAttention(nn.Module):
    """A frozen `Attention` with low-rank updates of q, k, v: W + B·A/√r, B from zero."""

    def __init__(self, frozen: Attention, plan: LoRASettings) -> None:
        super().__init__()
        width, rank = frozen.embed_dim, plan.rank
        self.down = nn.Parameter(torch.empty(3, rank, width))
        self.up = nn.Parameter(torch.zeros(3, width, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        self.dropout, self.scale = nn.Dropout(plan.dropout), 1 / math.sqrt(rank)
        self._frozen = [frozen]  # a list hides its parameters from this module

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention with the replaced module's signature: [B, Q, d], 2 × [B, T, d] → [B, Q, d].

        Args:
            query: [B, Q, d].
            key: [B, T, d].
            value: [B, T, d].
            need_weights: ignored; the replaced module has it.
            attn_mask: what is added to the logits, [Q, T] or [B, 1, Q, T].
        """
        frozen = self._frozen[0]
        weights, biases = frozen.in_proj_weight.chunk(3), frozen.in_proj_bias.chunk(3)
        parts = []
        for i, x in enumerate((query, key, value)):
            low = self.dropout(x) @ self.down[i].T @ self.up[i].T
            parts.append(F.linear(x, weights[i], biases[i]) + self.scale * low)
        return frozen.out_proj(attended(tuple(parts), frozen.num_heads, attn_mask)), None


class LoRA(nn.Module):
    """The updates of all blocks of both towers.

    Raises:
        UnsupportedModel: a block's attention is another one, that LoRA could not adapt.
    """

    def __init__(self, clip: FrozenCLIP, plan: LoRASettings) -> None:
        super().__init__()
        visual = clip.model.visual.transformer.resblocks
        self._blocks = [[*visual, *clip.model.transformer.resblocks]]
        for block in self._blocks[0]:
            attention = getattr(block, "attn", None)
            if not isinstance(attention, Attention) or attention.in_proj_weight is None:
                raise UnsupportedModel(
                    "a block's attention has no in_proj_weight for LoRA to adapt"
                )
        self.attentions = nn.ModuleList(LoRAAttention(b.attn, plan) for b in self._blocks[0])
        self.to(clip.device)

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Installs the updated attention, and restores the frozen CLIP's at the end."""
        frozen = [block.attn for block in self._blocks[0]]
        try:
            for block, attention in zip(self._blocks[0], self.attentions, strict=True):
                block.attn = attention
            yield
        finally:
            for block, attention in zip(self._blocks[0], frozen, strict=True):
                block.attn = attention


def fit_lora(clip: FrozenCLIP, train: Pool, template: str, plan: LoRASettings, seed: int) -> Fitted:
    """CLIP-LoRA: cross-entropy, AdamW with a cosine schedule, without the paper's augmentation."""
    adapted = adapted_cosines(clip, template)
    torch.manual_seed(seed)
    lora = LoRA(clip, plan)
    shots = int(train.labels.bincount().max())
    _train_lora(clip, lora, train, template, plan, plan.steps_per_shot * shots)
    lora.eval()

    def cosines(pool: Pool, classes: Sequence[str]) -> Tensor:
        with lora.injected():
            return adapted(pool, classes)

    return Fitted(sum(p.numel() for p in lora.parameters()), cosines)


def _train_lora(
    clip: FrozenCLIP, lora: LoRA, train: Pool, template: str, plan: LoRASettings, steps: int
) -> None:
    labels = train.labels.to(clip.device)
    with torch.no_grad():
        tokens = torch.cat(list(train.chunks(clip)))
        ids = clip.tokenize(prompts(train.classes, template))
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
