"""RMAdapter under the protocols, as a tenant's own fit."""

import torch

from adapters.clip import FrozenCLIP
from adapters.rmadapter import CLIPAdapters
from training.fit import FitSettings, Prepared, fit_rows, freeze, prepare_classes
from training.peers.pool import Fitted, Pool, adapted_cosines


def fit_adapters(clip: FrozenCLIP, train: Pool, settings: FitSettings) -> Fitted:
    """RMAdapter, as a tenant's own fit."""
    fitted = fit_rows(clip, prepare_pool(clip, train, settings), torch.arange(len(train)))
    fitted.requires_grad_(False)
    cosines = adapted_cosines(clip, settings.template, fitted.image.delta, fitted.text.delta)
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
