"""The training loop of both towers."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.pretrain.views import save_atomically

CHECKPOINT_SECONDS = 180.0


@dataclass(frozen=True)
class Group:
    """Parameters with a peak rate and a weight decay of their own."""

    parameters: list[nn.Parameter]
    rate: float
    decay: float


class Trainer:
    """AdamW with warm-up and cosine, a moving average of the weights, and a checkpoint.

    Step `n` draws its batch from a generator seeded by (seed, n), so that a run that was cut off
    and resumed takes the same batches.
    """

    def __init__(
        self, model: nn.Module, groups: list[Group], steps: int, path: Path, keep: float
    ) -> None:
        """`keep` is the moving average's decay per step, after its warm-up."""
        self.model, self.groups, self.steps, self.path = model, groups, steps, path
        self.keep = keep
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [{"params": g.parameters, "lr": 0.0, "weight_decay": g.decay} for g in groups],
            betas=(0.9, 0.98),
        )
        self.step = 0
        if path.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_atomically(state, self.path)

    def _set_rates(self) -> None:
        warm = min(1.0, (self.step + 1) / 100)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.steps)) + 0.01
        for group, chosen in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = chosen.rate * warm * cosine

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.keep, self.step / (self.step + 10))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - keep)

    def run(
        self,
        loss: Callable[[torch.Generator], Tensor],
        report: Callable[[nn.Module], str],
        seed: int,
        every: int,
    ) -> None:
        """Trains to the last step; the result is `average`."""
        parameters = [p for group in self.groups for p in group.parameters]
        started = saved = time.monotonic()
        while self.step < self.steps:
            self._set_rates()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + self.step)
            value = loss(generator)
            self.optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            self._follow()
            if self.step % every == 0 or self.step == self.steps:
                seconds = time.monotonic() - started
                about = f"step {self.step} {seconds:.0f}s loss {value.item():.3f}"
                print(about, report(self.average), flush=True)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()


def show(figures: dict[str, float]) -> str:
    """Figures on one line."""
    return " ".join(f"{name} {value:.3f}" for name, value in figures.items())
