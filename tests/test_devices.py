"""What a device changes, the same tests for each: features, swaps, and a fit."""

import numpy as np
import pytest
import torch

from adapters.bank import Bank
from adapters.clip import FrozenCLIP, load_clip
from service.inference.onnx_backend import OnnxBackend
from service.inference.torch_backend import TorchBackend
from service.settings import Settings
from service.wiring import batch_size
from tests.support.random_adapters import random_weights
from training.data import ImageSet
from training.fit import class_features, default_settings, fit, image_features

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
# Largest difference of a unit feature's numbers to float32 on the CPU.
DEVICES = [
    pytest.param(("cpu", "fp32", 2e-6), id="cpu-fp32"),
    pytest.param(("cpu", "bf16", 3e-2), id="cpu-bf16"),
    pytest.param(("cuda", "fp32", 1e-3), id="cuda-fp32", marks=ON_GPU),
    pytest.param(("cuda", "bf16", 3e-2), id="cuda-bf16", marks=ON_GPU),
]
SLOTS = [[0], [3, 3, 3], [4, 0, 1, 4, 2]]
PROMPTS = ["a dog", "a photo of a crab.", "a wild cat in the tall grass.", "a", "b"]


@pytest.fixture(scope="module", params=DEVICES)
def placed(request: pytest.FixtureRequest) -> tuple[FrozenCLIP, Bank, float]:
    device, precision, tolerance = request.param
    clip = load_clip(device=device, precision=precision)
    return clip, bank_of(clip), tolerance


@pytest.fixture(scope="module")
def reference(clip: FrozenCLIP) -> TorchBackend:
    return TorchBackend(clip, bank_of(clip))


def bank_of(clip: FrozenCLIP) -> Bank:
    bank = Bank(clip.image, clip.text, 5, 32, 3, 2, clip.device, clip.dtype)
    for slot in range(1, 5):
        bank.write(slot, random_weights(clip, slot))
    return bank


def furthest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_a_device_sees_and_reads_what_the_cpu_does(
    placed: tuple, reference: TorchBackend, images: ImageSet, slots: list[int]
) -> None:
    clip, bank, tolerance = placed
    backend, n = TorchBackend(clip, bank), len(slots)
    pixels = list(images.pixels[:n].numpy())
    seen = backend.images(pixels, slots)
    assert seen.dtype == np.float32
    assert furthest(seen, reference.images(pixels, slots)) < tolerance
    assert (
        furthest(backend.texts(PROMPTS[:n], slots), reference.texts(PROMPTS[:n], slots)) < tolerance
    )


def test_onnx_runtime_on_a_device_sees_what_the_cpu_does(
    placed: tuple, reference: TorchBackend, images: ImageSet, tmp_path_factory
) -> None:
    clip, bank, tolerance = placed
    if clip.precision != "fp32" or clip.device.type == "cpu":
        pytest.skip("the graph is in float32; on the CPU test_backends.py holds it")
    backend = OnnxBackend(clip, bank, tmp_path_factory.getbasetemp() / f"onnx-{clip.device.type}")
    pixels, slots = list(images.pixels[:5].numpy()), SLOTS[-1]
    assert furthest(backend.images(pixels, slots), reference.images(pixels, slots)) < tolerance
    assert furthest(backend.texts(PROMPTS, slots), reference.texts(PROMPTS, slots)) < tolerance


def test_a_swap_on_a_device_is_seen_by_the_next_batch_and_leaves_the_others(
    placed: tuple, images: ImageSet
) -> None:
    clip, bank, _ = placed
    backend, pixels = TorchBackend(clip, bank), [images.pixels[0].numpy()] * 2
    before = backend.images(pixels, [1, 2])
    backend.write(1, random_weights(clip, 77))
    after = backend.images(pixels, [1, 2])
    backend.write(1, random_weights(clip, 1))
    assert furthest(after[0], before[0]) > 1e-2
    assert furthest(after[1], before[1]) < 1e-6
    assert furthest(backend.images(pixels, [1, 2]), before) < 1e-6
    assert {tensor.device.type for tensor in bank.image.tensors()} == {clip.device.type}


def test_a_fit_on_a_device_learns_what_it_is_shown(placed: tuple, few: ImageSet) -> None:
    clip, _, _ = placed
    settings = default_settings(clip, epochs=6, min_steps=1)
    fitted = fit(clip, few, settings)
    seen = image_features(clip, fitted, few.pixels)
    named = class_features(clip, fitted, few.classes, settings.template)
    assert seen.device.type == clip.device.type
    right = ((seen @ named.T).argmax(1).cpu() == few.labels).float().mean()
    assert right > 0.9


def test_a_gpus_batches_are_larger(placed: tuple) -> None:
    clip, _, _ = placed
    assert batch_size(Settings(), clip) == (32 if clip.device.type == "cuda" else 4)
