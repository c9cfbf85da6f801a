"""PyTorch runs the model: the plain backend, and the reference of the others."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.bank import FROZEN, AdapterWeights, Bank
from adapters.clip import FrozenCLIP
from adapters.pixels import Pixels
from service.caches import BoundedCache
from service.inference.protocol import Features


class LowerText:
    """The tokens of prompts at the first adapter's block.

    They are the same for every tenant, so they are cached by prompt. The least recently used one
    is evicted.
    """

    def __init__(self, clip: FrozenCLIP, first: int, limit: int) -> None:
        self._clip, self._first = clip, first
        self._known: BoundedCache[str, tuple[Tensor, Tensor]] = BoundedCache(limit)

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens [N, L, d], ids int64 [N, L]), L being the longest prompt's length."""
        missing = [p for p in dict.fromkeys(prompts) if p not in self._known]
        found = {p: self._known[p] for p in prompts if p in self._known}
        found |= self._compute(missing)
        for prompt in prompts:
            self._known.keep(prompt, found[prompt])
        tokens = [found[prompt][0] for prompt in prompts]
        ids = [found[prompt][1] for prompt in prompts]
        return pad_sequence(tokens, batch_first=True), pad_sequence(ids, batch_first=True)

    def _compute(self, prompts: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
        if not prompts:
            return {}
        ids = self._clip.tokenize(prompts)
        tokens = self._clip.text_lower(ids, self._first)
        ends = self._clip.lengths(prompts)  # known here: the device need not be asked
        return {
            prompt: (tokens[i, :end].clone(), ids[i, :end].clone())
            for i, (prompt, end) in enumerate(zip(prompts, ends, strict=True))
        }


class TorchBackend:
    """Runs open_clip's modules with the bank's tensors."""

    name = "torch"

    def __init__(self, clip: FrozenCLIP, bank: Bank, prompts: int = 10_000) -> None:
        self._clip, self._bank = clip, bank
        self.picture_size = clip.spec.size
        self._lower_text = LowerText(clip, bank.text.first, prompts)

    @torch.inference_mode()
    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features:
        """See `Backend.images`."""
        first = self._bank.image.first
        rows = torch.from_numpy(np.stack(pixels))  # uint8 [B, 3, S, S]
        tokens = self._clip.image_lower(rows, first)
        return as_array(self._clip.image_upper(tokens, first, self._bank.image.delta(slots)))

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features:
        """See `Backend.texts`."""
        tokens, ids = self._lower_text(prompts)
        delta = self._bank.text.delta(slots)
        return as_array(self._clip.text_upper(tokens, ids, self._bank.text.first, delta))

    @torch.inference_mode()
    def write(self, slot: int, weights: AdapterWeights) -> None:
        """See `Backend.write`."""
        self._bank.write(slot, weights)

    def free_memory(self) -> None:
        """See `Backend.free_memory`."""
        if self._clip.device.type == "cuda":
            torch.cuda.empty_cache()

    def check(self) -> None:
        """Runs a blank picture and a prompt on the frozen CLIP; raises what the device raises."""
        size = self.picture_size
        self.images([np.zeros((3, size, size), np.uint8)], [FROZEN])
        self.texts(["a"], [FROZEN])

    def ping(self) -> None:
        """Does a product on the device and waits for it."""
        torch.ones(1, device=self._clip.device).sum().item()


def as_array(features: Tensor) -> Features:
    """Features as float32 in the host's memory."""
    return features.cpu().numpy()
