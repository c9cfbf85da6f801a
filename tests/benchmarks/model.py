"""Rows about the model alone: towers, bank, prompts, backends, the fit."""

import copy
import multiprocessing
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from adapters.bank import Bank
from adapters.classify import TEMPLATE, prompts
from adapters.clip import FrozenCLIP, load_clip
from adapters.pixels import decode_image
from service.inference.onnx_backend import OnnxBackend
from service.inference.protocol import Backend
from service.inference.torch_backend import TorchBackend
from tests.benchmarks import naive
from tests.benchmarks.compare import Row, rates
from tests.support.paths import SHARED
from tests.support.random_adapters import random_weights
from training.data import Sample, few_shot, image_set, read_samples
from training.fit import class_features, default_settings, fit, image_features

ROWS, PROMPTS_AT_ONCE = 32, 128
MODELS = ("ViT-B-16", "bundled")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@cache
def clip_of(name: str) -> FrozenCLIP:
    """On the device and in the precision that the service would take here."""
    torch.manual_seed(0)
    return load_clip(name, device=DEVICE, precision="bf16" if DEVICE == "cuda" else "fp32")


def empty_bank(clip: FrozenCLIP, slots: int) -> Bank:
    place = default_settings(clip).adapter
    first = place.image_first, place.text_first
    return Bank(clip.image, clip.text, slots, 32, *first, clip.device, clip.dtype)


def full_bank(clip: FrozenCLIP, slots: int) -> Bank:
    """A bank with an adapter in each slot but the frozen CLIP's."""
    bank = empty_bank(clip, slots)
    for slot in range(1, slots):
        bank.write(slot, random_weights(clip, slot))
    return bank


def pixels_for(clip: FrozenCLIP, rows: int) -> list[np.ndarray]:
    size = clip.spec.size
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 255, (rows, 3, size, size), dtype=np.uint8))


@torch.inference_mode()
def _open_clips_images(clip: FrozenCLIP, pixels: list[np.ndarray]) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (clip.spec.mean, clip.spec.std))
    rows = (torch.from_numpy(np.stack(pixels)).float() - mean) / std
    return clip.model.encode_image(rows.to(clip.device, clip.dtype), normalize=True).float()


def mixed_tenants_vs_frozen() -> Iterator[Row]:
    clip = clip_of("ViT-B-16")
    backend, pixels = TorchBackend(clip, full_bank(clip, ROWS + 1)), pixels_for(clip, ROWS)
    slots = list(range(1, ROWS + 1))
    yield rates(
        "mixed_tenants_vs_frozen",
        lambda: backend.images(pixels, slots),
        lambda: _open_clips_images(clip, pixels),
        ROWS,
        n=3,
        target=0.9,
        note=f"ViT-B-16, {ROWS} rows on {ROWS} adapters, over open_clip's encode_image",
    )


def gathered_vs_grouped() -> Iterator[Row]:
    """The adapters alone, beside one block of ViT-B/16."""
    clip = clip_of("ViT-B-16")
    bank, x = (
        full_bank(clip, ROWS + 1).image,
        torch.randn(ROWS, 197, 768, device=DEVICE, dtype=clip.dtype),
    )
    for adapters in (4, 32):
        slots = [i % adapters + 1 for i in range(ROWS)]
        gather, group = bank.delta(slots), naive.grouped(bank, slots)
        assert gather is not None
        yield rates(
            f"gathered_vs_grouped_{adapters}",
            partial(gather, bank.first, x),
            partial(group, bank.first, x),
            ROWS,
            n=9,
            note=f"ViT-B-16, one block's adapters: {ROWS} rows on {adapters}",
        )


def text_features_vs_open_clip() -> Iterator[Row]:
    clip = clip_of("ViT-B-16")
    bank = full_bank(clip, 2)
    texts = prompts(open_clip.IMAGENET_CLASSNAMES)
    full = torch.zeros(len(texts), clip.context_length, dtype=torch.long)
    ids = clip.tokenize(texts)
    full[:, : ids.shape[1]] = ids
    made: dict[str, torch.Tensor] = {}

    def ours() -> None:  # as the classifier queues them: short ones first
        backend = TorchBackend(clip, bank)  # nothing kept from the last turn
        lengths = clip.lengths(texts)
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        out = np.empty((len(texts), clip.embed_dim), np.float32)
        for start in range(0, len(order), PROMPTS_AT_ONCE):
            rows = order[start : start + PROMPTS_AT_ONCE]
            out[rows] = backend.texts([texts[i] for i in rows], [0] * len(rows))
        made["ours"] = torch.from_numpy(out)

    @torch.inference_mode()
    def theirs() -> None:
        chunks = full.to(clip.device).split(PROMPTS_AT_ONCE)
        features = [clip.model.encode_text(chunk, normalize=True) for chunk in chunks]
        made["theirs"] = torch.cat(features).float().cpu()

    row = rates(
        "text_features_vs_open_clip",
        ours,
        theirs,
        len(texts),
        n=2,
        unit="names/s",
        target=4.0,
        warm=False,
    )
    difference = (made["ours"] - made["theirs"]).abs().max().item()
    note = f"ViT-B-16, ImageNet's 1,000 names, nothing cached; largest difference {difference:.0e}"
    yield Row(**(row.to_dict() | {"note": note}))


def eight_rows(
    row: str, name: str, ours: Backend, theirs: Backend, note: str = "", target: float | None = None
) -> Row:
    """Two backends on the same 8 pictures, on 8 adapters."""
    pixels, slots = pixels_for(clip_of(name), 8), list(range(1, 9))
    return rates(
        row if name == "ViT-B-16" else f"{row}_{name}",
        partial(ours.images, pixels, slots),
        partial(theirs.images, pixels, slots),
        len(pixels),
        n=5,
        target=target,
        note=f"{name}, 8 rows on 8 adapters{note}",
    )


def onnx_vs_torch(folder: Path) -> Iterator[Row]:
    for name in MODELS:
        clip = clip_of(name)
        bank = full_bank(clip, 9)
        plain, onnx = TorchBackend(clip, bank), OnnxBackend(clip, bank, folder)
        yield eight_rows("onnx_vs_torch", name, onnx, plain, target=1.0)


def bf16_vs_fp32() -> Iterator[Row]:
    """PyTorch's matrix products in bf16, over those in float32; what it costs in likeness."""
    for name in MODELS:
        clips = []
        for precision in ("bf16", "fp32"):
            torch.manual_seed(0)
            clips.append(load_clip(name, device=DEVICE, precision=precision))
        half, full = (TorchBackend(clip, full_bank(clip, 9)) for clip in clips)
        pixels, slots = pixels_for(clips[0], 8), list(range(1, 9))
        likeness = (half.images(pixels, slots) * full.images(pixels, slots)).sum(1).min()
        note = f", PyTorch; least cosine of a feature {likeness:.4f}"
        yield eight_rows("bf16_vs_fp32", name, half, full, note)


def int8_vs_fp32(folder: Path) -> Iterator[Row]:
    """ONNX Runtime in int8, where pictures are run one by one, over float32 in a batch. On a CPU
    alone, as the service."""
    for name in MODELS if DEVICE == "cpu" else ():
        clip = clip_of(name)
        bank = full_bank(clip, 9)
        small, full = OnnxBackend(clip, bank, folder, int8=True), OnnxBackend(clip, bank, folder)
        note = f", ONNX Runtime; {_likeness(clip, small, full)}"
        yield eight_rows("int8_vs_fp32", name, small, full, note)


def _likeness(clip: FrozenCLIP, ours: Backend, theirs: Backend) -> str:
    """How like the frozen features of two backends are on photos of Caltech 101; with trained
    weights on all of them, and how many both give the right one of 100 names."""
    random = clip.name.endswith("random")
    samples = list(read_samples(SHARED / "caltech101.zip"))[:: 100 if random else 1]
    classes = sorted({sample.label for sample in samples})
    labels = np.array([classes.index(sample.label) for sample in samples])
    pixels = [decode_image(sample.data, clip.spec) for sample in samples]
    batches = [pixels[i : i + 8] for i in range(0, len(pixels), 8)]
    a, b = (np.concatenate([k.images(p, [0] * len(p)) for p in batches]) for k in (ours, theirs))
    note = f"least cosine of {len(samples)} photos' features {(a * b).sum(1).min():.4f}"
    if random:
        return note
    text = class_features(clip, None, classes, TEMPLATE).cpu().numpy()
    right = [((features @ text.T).argmax(1) == labels).mean() for features in (a, b)]
    return f"{note}, zero-shot {right[0]:.1%} and {right[1]:.1%} right"


def compiled_vs_eager() -> Iterator[Row]:
    """Both halves of the image tower through torch.compile, over the modules as they are."""
    for name in MODELS:
        clip = clip_of(name)
        bank = full_bank(clip, 9)
        eager, compiled = TorchBackend(clip, bank), TorchBackend(_compiled(clip), bank)
        started = time.perf_counter()
        compiled.images(pixels_for(clip, 8), list(range(1, 9)))
        note = f", PyTorch; compiled in {time.perf_counter() - started:.0f} s"
        yield eight_rows("compiled_vs_eager", name, compiled, eager, note)


def _compiled(clip: FrozenCLIP) -> FrozenCLIP:
    """The same modules, with both halves of the image tower compiled at their first batch."""
    other = copy.copy(clip)
    other.image_lower = torch.compile(clip.image_lower)  # type: ignore[method-assign]
    other.image_upper = torch.compile(clip.image_upper)  # type: ignore[method-assign]
    return other


def batch_sizes(folder: Path) -> Iterator[Row]:
    """Why a CPU's batch is 4."""
    clip = clip_of("bundled")
    bank = full_bank(clip, 9)
    onnx = OnnxBackend(clip, bank, folder)
    large = pixels_for(clip, 32)
    for rows in (1, 2, 4, 8, 16):
        slots, parts = [i % 8 + 1 for i in range(32)], 32 // rows

        def small(rows: int = rows, slots: list[int] = slots, parts: int = parts) -> None:
            for part in range(parts):
                at = slice(part * rows, (part + 1) * rows)
                onnx.images(large[at], slots[at])

        yield rates(
            f"batch_of_{rows}_vs_32",
            small,
            partial(onnx.images, large, slots),
            32,
            n=3,
            note="bundled, ONNX Runtime",
        )


def fit_vs_naive_loop() -> Iterator[Row]:
    clip = clip_of("bundled")
    samples = _twenty_classes(clip)
    data = image_set(samples, clip.spec)
    drawn, others = few_shot(data.labels, 16, seed=1)
    chosen = [samples[i] for i in drawn.tolist()]
    settings = default_settings(clip)
    adapters = {}

    def ours() -> None:
        adapters["ours"] = fit(clip, image_set(chosen, clip.spec), settings)

    def theirs() -> None:
        adapters["theirs"] = naive.fit(clip, chosen, settings)

    row = rates("fit_vs_naive_loop", ours, theirs, 1, n=1, unit="fits/s", target=3.0, warm=False)
    test = data.take(others)
    right = {
        name: (
            image_features(clip, fitted, test.pixels)
            @ class_features(clip, fitted, test.classes, settings.template).T
        )
        .argmax(1)
        .cpu()
        == test.labels
        for name, fitted in adapters.items()
    }
    accuracy = {name: f"{answers.float().mean():.1%}" for name, answers in right.items()}
    note = (
        f"bundled, {len(data.classes)} classes, {len(chosen)} photos;"
        f" accuracy on {len(test)} others {accuracy['ours']} and {accuracy['theirs']}"
    )
    yield Row(**(row.to_dict() | {"note": note}))


def _twenty_classes(clip: FrozenCLIP) -> list[Sample]:
    """Every fifth class of Caltech 101, 24 photos each."""
    samples = list(read_samples(SHARED / "caltech101.zip"))
    names = sorted({sample.label for sample in samples})[::5]
    return [s for name in names for s in [s for s in samples if s.label == name][:24]]


def share_of_matrix_rate() -> Iterator[Row]:
    clip = clip_of("ViT-B-16")
    backend, pixels = TorchBackend(clip, full_bank(clip, 9)), pixels_for(clip, 8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(False):
        rows = torch.from_numpy(np.stack(pixels))
        clip.image_upper(clip.image_lower(rows, 1), 1)
    work = counter.get_total_flops()
    left, right = (torch.randn(2048, 2048, device=DEVICE, dtype=clip.dtype) for _ in range(2))

    def products() -> None:
        for _ in range(max(1, round(work / (2 * 2048**3)))):
            left @ right

    row = rates(
        "images_vs_matrix_products",
        partial(backend.images, pixels, list(range(1, 9))),
        products,
        work,
        n=3,
        unit="FLOP/s",
        note="ViT-B-16, 8 rows on 8 adapters, over plain products of 2048×2048",
    )
    yield row


def memory_of_a_thousand() -> Iterator[Row]:
    """Resident memory that a thousand adapters of ViT-B/16 add to a process of their own, which has
    no freed memory of other rows to put them into."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        added = pool.apply(_added_by, ("ViT-B-16", 1000)) / 2**20
    note = "ViT-B-16, rank 32, blocks 5…12 of both towers, float32"
    yield Row("memory_of_1000_adapters", None, added, None, "MiB", 1, None, None, note)


def _added_by(name: str, adapters: int) -> int:
    clip = clip_of(name)
    before = resident_bytes()
    bank = full_bank(clip, adapters + 1)
    added = resident_bytes() - before
    assert bank.slots == adapters + 1
    return added


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS here")
