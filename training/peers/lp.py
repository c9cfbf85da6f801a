"""LP++ (Huang et al., CVPR 2024): a linear probe blended with the class texts."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.clip import FrozenCLIP
from training.fit import class_features
from training.peers.pool import Fitted, Pool, bound_cosines


@dataclass(frozen=True, slots=True)
class LPSettings:
    """LP++ (Huang et al., CVPR 2024): full-batch steps, sized by the features."""

    steps: int = 300
    alpha_every: int = 10  # steps between two steps of α, as in the authors' code
    alpha_scale: float = 250.0  # α starts at this times the mean similarity to the own class's text


class LinearProbe(nn.Module):
    """LP++'s head: logits = f·W + b + α ∘ f·T, with one α per class.

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


def fit_lp(clip: FrozenCLIP, train: Pool, template: str, plan: LPSettings) -> Fitted:
    """LP++: full-batch gradient steps whose sizes are bounds on the loss's curvature."""
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
            with torch.no_grad():  # α's gradient accumulates, as in the authors' code
                probe.alpha.sub_(alpha_step * probe.alpha.grad)
    return Fitted(
        sum(p.numel() for p in probe.parameters()), bound_cosines(clip, train, template, probe)
    )
