"""Adapters with random weights, as if fitted, and versions that hold them."""

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from adapters.artifact import Artifact, Manifest, encode_artifact
from adapters.bank import AdapterWeights, export
from adapters.clip import FrozenCLIP
from adapters.evidence import Evidence, fit_evidence
from adapters.rmadapter import CLIPAdapters
from service.records import Records
from service.records.adapters import Version
from training.fit import default_settings


def random_adapters(clip: FrozenCLIP, seed: int, **changes: int) -> CLIPAdapters:
    """Adapters with weights that matter, as if fitted."""
    settings = default_settings(clip)
    torch.manual_seed(seed)
    adapters = CLIPAdapters(clip.image, clip.text, replace(settings.adapter, **changes))
    for name, parameter in adapters.named_parameters():
        if ".up." in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    return adapters.requires_grad_(False).to(clip.device)


def random_weights(clip: FrozenCLIP, seed: int, **changes: int) -> AdapterWeights:
    return export(random_adapters(clip, seed, **changes))


def random_head(classes: int, width: int = 12, shots: int = 2, seed: int = 1) -> Evidence:
    """A head fitted to random photos of some classes; features of `width` numbers."""
    torch.manual_seed(seed)
    photos = F.normalize(torch.randn(classes * shots, width), dim=1)
    text = F.normalize(torch.randn(classes, width), dim=1)
    labels = torch.arange(classes).repeat_interleave(shots)
    return replace(fit_evidence(photos, labels, text, 60.0), offset=0.25, scale=9.0)


def manifest_of(clip: FrozenCLIP, /, **changes: Any) -> Manifest:
    """A manifest of this CLIP's adapters, which fits `random_weights`."""
    place = default_settings(clip).adapter
    plain = {
        "clip": clip.name,
        "fingerprint": clip.fingerprint,
        "tenant": "t",
        "adapter": "a",
        "version": 1,
        "classes": ("crab", "lotus"),
        "template": "a photo of a {}.",
        "logit_scale": 20.0,
        "image_first": place.image_first,
        "text_first": place.text_first,
        "created_at": "2026-01-01T00:00:00.000Z",
    }
    return Manifest(**(plain | changes))


def add_version(
    records: Records,
    clip: FrozenCLIP,
    tenant: str,
    adapter: str,
    number: int,
    weights: AdapterWeights | None = None,
    classes: tuple[str, ...] = ("crab", "lotus"),
) -> Version:
    """A version with random weights, as a worker would store it; the number is its seed."""
    manifest = manifest_of(clip, tenant=tenant, adapter=adapter, version=number, classes=classes)
    weights = weights or random_weights(clip, number)
    return records.adapters.add(manifest, encode_artifact(Artifact(manifest, weights)))
