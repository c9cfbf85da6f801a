"""Tip-Adapter-F (Zhang et al., ECCV 2022): a cache of the photos' features, fine-tuned."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.clip import FrozenCLIP
from training.fit import class_features
from training.peers.pool import Fitted, Pool, bound_cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class TipSettings:
    """Tip-Adapter-F (Zhang et al., ECCV 2022), its published settings."""

    alpha: float = 1.0
    beta: float = 5.5
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    search: bool = True  # of α and β on a quarter of the *training* pictures; paper: a val split


def cache_logits(
    features: Tensor, keys: Tensor, values: Tensor, alpha: float, beta: float
) -> Tensor:
    """α · exp(−β(1 − f·Kᵀ)) · V: unit [N, e], [M, e], one-hot [M, C] → [N, C]."""
    return alpha * torch.exp(-beta * (1 - features @ keys.T)) @ values


def fit_tip(clip: FrozenCLIP, train: Pool, template: str, plan: TipSettings, seed: int) -> Fitted:
    """Tip-Adapter-F: trains the cache's keys, which start as the pictures' features."""
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

    return Fitted(keys.numel(), bound_cosines(clip, train, template, logits_of))


def _search(
    features: Tensor, frozen: Tensor, values: Tensor, plan: TipSettings
) -> tuple[float, float]:
    """The α, β with which an untrained cache of three quarters is best on the last quarter."""
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
