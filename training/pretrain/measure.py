"""Measures the finished model on data that it never saw: Caltech 101 and PACS."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from training.pretrain.text import TEMPLATE
from training.pretrain.views import Photo, batches, normalise, pixels

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
SHOTS = 16


def read_folders(archive: Path) -> tuple[list[str], list[Photo]]:
    """Class names, sorted, and the photos of an archive with a folder for each class."""
    with zipfile.ZipFile(archive) as opened:
        files = sorted(n for n in opened.namelist() if not n.endswith("/"))
        classes = sorted({name.split("/")[0] for name in files})
        photos = [Photo(opened.read(n), classes.index(n.split("/")[0]), False) for n in files]
    return [name.replace("_", " ").lower() for name in classes], photos


@torch.inference_mode()
def encode_photos(model: CLIP, photos: list[Photo]) -> Tensor:
    """Unit features [V, 384] of whole photos."""
    parts = []
    for part in batches(len(photos), 64):
        images = np.stack([pixels(photos[i], None) for i in part])
        parts.append(F.normalize(model.encode_image(normalise(images)), dim=1))
    return torch.cat(parts)


@torch.inference_mode()
def encode_names(model: CLIP, names: list[str]) -> Tensor:
    """Unit features [K, 384]."""
    tokens = SimpleTokenizer(context_length=32)([TEMPLATE.format(name) for name in names])
    return F.normalize(model.encode_text(tokens), dim=1)


def zero_shot(z: Tensor, answer: Tensor, names: Tensor) -> float:
    """The share of unit features [N, e] that are nearest to their own name's, [C, e]."""
    return ((z @ names.T).argmax(1) == answer).float().mean().item()


def few_shot(z: Tensor, answer: Tensor, seed: int = 1) -> float:
    """The accuracy by the nearest mean of SHOTS photos per class, on the other photos."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).tolist()
    shown: dict[int, list[int]] = {}
    asked: list[int] = []
    for at in order:
        members = shown.setdefault(int(answer[at]), [])
        if len(members) < SHOTS:
            members.append(at)
        else:
            asked.append(at)
    means = torch.stack([F.normalize(z[shown[c]].mean(0), dim=0) for c in sorted(shown)])
    return zero_shot(z[asked], answer[asked], means)


def measure(model: CLIP, data: Path) -> dict[str, float]:
    """Accuracies on the archives in `data`: caltech101.zip, pacs_DOMAIN.zip."""
    names, photos = read_folders(data / "caltech101.zip")
    z, answer = encode_photos(model, photos), torch.tensor([p.label for p in photos])
    texts, half = encode_names(model, names), len(names) // 2
    base = answer < half
    found = {
        "caltech101, 100 names": zero_shot(z, answer, texts),
        "caltech101, base": zero_shot(z[base], answer[base], texts[:half]),
        "caltech101, novel": zero_shot(z[~base], answer[~base] - half, texts[half:]),
        "caltech101, nearest mean of 16": few_shot(z, answer),
    }
    for domain in DOMAINS:
        names, photos = read_folders(data / f"pacs_{domain}.zip")
        z, answer = encode_photos(model, photos), torch.tensor([p.label for p in photos])
        found[f"pacs, {domain}"] = zero_shot(z, answer, encode_names(model, names))
    return found


def write_figures(figures: dict[str, float], path: Path) -> None:
    """Writes figures as JSON, rounded to four digits."""
    path.write_text(json.dumps({k: round(v, 4) for k, v in figures.items()}, indent=1) + "\n")
