"""The plain ways that the fast ones are measured against."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from adapters.artifact import decode_artifact
from adapters.bank import Bank, TowerBank
from adapters.classify import prompts, scores
from adapters.clip import Delta, FrozenCLIP
from adapters.pixels import decode_image
from adapters.rmadapter import CLIPAdapters, Reconstruction, TowerOutput, total_loss
from service.inference.torch_backend import TorchBackend
from training.data import Sample
from training.fit import FitSettings, rate_at, steps_of


def fit(clip: FrozenCLIP, samples: Sequence[Sample], settings: FitSettings) -> CLIPAdapters:
    """The loop of `training.fit` with nothing kept: every step decodes its pictures and runs every
    block, twice over for the frozen features of the consistency loss.
    """
    classes = sorted({sample.label for sample in samples})
    labels = torch.tensor([classes.index(sample.label) for sample in samples]).to(clip.device)
    ids = clip.tokenize(prompts(classes, settings.template))
    counted = torch.arange(ids.shape[1]) <= clip.end_of_text(ids).unsqueeze(1)
    ids, counted = ids.to(clip.device), counted.to(clip.device)
    torch.manual_seed(settings.seed)
    adapters = CLIPAdapters(clip.image, clip.text, settings.adapter).to(clip.device)
    optimiser = torch.optim.AdamW(
        adapters.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    epochs, steps = steps_of(len(samples), settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: rate_at(done, steps))
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(samples), generator=generator).split(settings.batch_size):
            pixels = [decode_image(samples[row].data, clip.spec) for row in rows.tolist()]
            x = clip.image_lower(torch.from_numpy(np.stack(pixels)), 1)
            w = clip.text_lower(ids, 1)
            see, read = Reconstruction(adapters.image), Reconstruction(adapters.text, counted)
            with torch.no_grad():
                frozen = clip.image_upper(x, 1), clip.text_upper(w, ids, 1)
            seen, named = clip.image_upper(x, 1, see), clip.text_upper(w, ids, 1, read)
            loss = total_loss(
                clip.logit_scale * seen @ named.T,
                labels[rows],
                settings.losses,
                TowerOutput(seen, frozen[0], see.error),
                TowerOutput(named, frozen[1], read.error),
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return adapters.eval()


def grouped(bank: TowerBank, slots: Sequence[int]) -> Delta:
    """Instead of gathering: a plain product for the rows of each slot."""
    rows = {slot: [i for i, s in enumerate(slots) if s == slot] for slot in set(slots)}

    def delta(block: int, x: torch.Tensor) -> torch.Tensor | None:
        i = block - bank.first
        if i < 0:
            return None
        out = torch.empty_like(x)
        for slot, at in rows.items():
            h = functional.gelu(x[at] @ bank.down[slot, i] + bank.down_bias[slot, i])
            out[at] = h @ bank.up[slot, i] + bank.up_bias[slot, i]
        return out

    return delta


class SwappingServer:
    """One model, one place for an adapter: each request reads its file, loads it, runs alone."""

    def __init__(self, clip: FrozenCLIP, bank: Bank) -> None:
        self._clip = clip
        self._backend = TorchBackend(clip, bank, prompts=1)

    def classify(self, artifact: bytes, picture: bytes, classes: Sequence[str]) -> list[float]:
        loaded = decode_artifact(artifact)
        self._backend.write(1, loaded.weights)
        names = prompts(classes, loaded.manifest.template)
        text = torch.from_numpy(self._backend.texts(names, [1] * len(names)))
        pixels = decode_image(picture, self._clip.spec)
        seen = torch.from_numpy(self._backend.images([pixels], [1]))
        answer: list[float] = scores(seen, text, loaded.manifest.logit_scale)[0].tolist()
        return answer
