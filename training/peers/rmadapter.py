"""RMAdapter under the protocols: with adapted names alone, and with the head as in serving."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adapters.clip import FrozenCLIP
from adapters.evidence import values
from adapters.names import columns_of
from adapters.rmadapter import CLIPAdapters
from training.evaluation import chosen_offset, head_of
from training.fit import (
    FitSettings,
    Prepared,
    features,
    fit_rows,
    freeze,
    prepare_classes,
    text_features,
)
from training.peers.pool import Fitted, Pool, adapted_cosines, adapted_images


def fit_adapters(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Fitted:
    """RMAdapter without the head: each class's score comes from its adapted name."""
    _, fitted = _fit(clip, train, settings)
    cosines = adapted_cosines(clip, settings.template, fitted.image.delta, fitted.text.delta)
    return Fitted(_parameters(fitted, settings), cosines)


def fit_with_head(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Fitted:
    """RMAdapter with the head on its features, as in serving: `values` in place of cosines.

    The head has no trainable parameters: it is a closed form.
    """
    prepared, fitted = _fit(clip, train, settings)
    everything = torch.arange(len(train))
    seen = features(clip, prepared, fitted, everything)
    frozen = features(clip, prepared, None, everything)
    offset, _ = chosen_offset(clip, frozen, train.labels, settings.seed)
    head = replace(head_of(clip, prepared, seen, everything).float(), offset=offset)

    @torch.no_grad()
    def judged(pool: Pool, classes: Sequence[str]) -> Tensor:
        images = adapted_images(clip, pool, fitted.image.delta).cpu()
        text = text_features(clip, classes, settings.template, fitted.text.delta).cpu()
        columns = torch.tensor(columns_of(classes, train.classes, clip.prompt_ids))
        return values(head, images, text, columns)

    return Fitted(_parameters(fitted, settings), judged)


def _fit(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> tuple[Prepared, CLIPAdapters]:
    prepared = prepare_pool(clip, train, settings)
    fitted = fit_rows(clip, prepared, torch.arange(len(train)))
    return prepared, fitted.requires_grad_(False)


def _parameters(adapters: CLIPAdapters, settings: FitSettings) -> int:
    losses = settings.losses
    return trained_parameters(
        adapters, losses.image_reconstruction > 0 or losses.text_reconstruction > 0
    )


def trained_parameters(adapters: CLIPAdapters, reconstructs: bool) -> int:
    """The number of trainable parameters: without a reconstruction loss, only `down` and `up`."""
    return sum(
        value.numel()
        for name, value in adapters.named_parameters()
        if reconstructs or ".rec_" not in name
    )


@torch.no_grad()
def prepare_pool(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Prepared:
    """Does what `training.fit.prepare` does, from a pool's tokens."""
    first = settings.adapter.image_first
    images = freeze(clip, (clip.image_between(x, 1, first) for x in train.chunks(clip)), first)
    return prepare_classes(clip, train.classes, images, train.labels, settings)
