"""Both backends give the same features, for any batch, any slots, and after a swap."""

import logging
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from adapters.bank import Bank
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from service import wiring
from service.inference import backends, onnx_backend
from service.inference.choice import choose
from service.inference.onnx_backend import OnnxBackend
from service.inference.protocol import Backend
from service.inference.torch_backend import LowerText, TorchBackend
from service.settings import Settings
from tests.support.random_adapters import random_weights
from training.data import ImageSet

TOLERANCE = 2e-6  # of unit features: other kernels add up in another order
PROMPTS = ["a dog", "a photo of a crab.", "a photo of a wild cat in the tall grass.", "a", "b", "c"]
SLOTS = [[0], [2], [0, 0], [3, 3, 3], [0, 1, 2], [4, 3, 0, 1, 4, 2]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bank(clip: FrozenCLIP) -> Bank:
    made = Bank(clip.image, clip.text, 5, 32, 3, 2)
    for slot in range(1, 5):
        made.write(slot, random_weights(clip, slot))
    return made


@pytest.fixture(scope="module")
def plain(clip: FrozenCLIP, bank: Bank) -> Backend:
    return TorchBackend(clip, bank)


@pytest.fixture(scope="module")
def onnx(clip: FrozenCLIP, bank: Bank, cache: Path) -> Backend:
    return OnnxBackend(clip, bank, cache)


@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_onnx_runtime_sees_what_torch_sees(
    plain: Backend, onnx: Backend, images: ImageSet, slots: list[int]
) -> None:
    pixels = list(images.pixels[:: 192 // len(slots)][: len(slots)].numpy())
    difference = np.abs(onnx.images(pixels, slots) - plain.images(pixels, slots)).max()
    assert difference < TOLERANCE


@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_onnx_runtime_reads_what_torch_reads(
    plain: Backend, onnx: Backend, slots: list[int]
) -> None:
    prompts = PROMPTS[: len(slots)]
    difference = np.abs(onnx.texts(prompts, slots) - plain.texts(prompts, slots)).max()
    assert difference < TOLERANCE


def test_in_int8_features_are_alike_and_no_pictures_depend_on_those_beside_it(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, images: ImageSet
) -> None:
    small = OnnxBackend(clip, bank, cache, int8=True)
    pixels, slots = list(images.pixels[::24].numpy()), [0, 1, 2, 3, 4, 1, 2, 0]
    together = small.images(pixels, slots)
    assert (together * onnx.images(pixels, slots)).sum(1).min() > 0.98
    for i in (0, 3, 7):
        assert np.array_equal(small.images([pixels[i]], [slots[i]])[0], together[i])


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_int8_is_taken_where_it_is_asked_for(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, backend: str
) -> None:
    asked = settings_for(backend, cache, precision="int8")
    decided, same = choose(asked, clip, 2)
    assert same is clip
    assert backends.open_backend(decided, clip, bank, 2).name == "onnx-int8"


def test_int8_is_refused_where_it_is_none_of_the_backends(clip: FrozenCLIP, tmp_path: Path) -> None:
    asked = settings_for("torch", tmp_path, precision="int8")
    with pytest.raises(UnsupportedModel, match=r"RMADAPTER_PRECISION=int8.*the backend is torch"):
        choose(asked, clip, 2)


def test_a_swap_is_seen_by_the_next_batch(
    clip: FrozenCLIP, plain: Backend, onnx: Backend, images: ImageSet
) -> None:
    pixels = [images.pixels[0].numpy()]
    before = onnx.images(pixels, [1])
    onnx.write(1, random_weights(clip, 77))
    after = onnx.images(pixels, [1])
    assert np.abs(after - before).max() > 1e-2
    assert np.abs(after - plain.images(pixels, [1])).max() < TOLERANCE
    onnx.write(1, random_weights(clip, 1))
    assert np.array_equal(onnx.images(pixels, [1]), before)


def test_the_export_is_made_once_for_a_models_weights(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", None)  # would fail if called
    OnnxBackend(clip, bank, cache)
    assert [clip.fingerprint[:16] in folder.name for folder in (cache / "onnx").iterdir()] == [True]


@pytest.mark.parametrize("changed", ["image.onnx", "text.onnx.data", "sha256.json"])
def test_a_graph_that_is_not_as_it_was_exported_is_made_anew_and_never_loaded(
    clip: FrozenCLIP,
    bank: Bank,
    cache: Path,
    onnx: Backend,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: str,
) -> None:
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "onnx").iterdir()
    file = folder / changed
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    OnnxBackend(clip, bank, tmp_path)
    assert "not as they were exported" in caplog.text
    assert file.read_bytes() != damaged
    assert list((tmp_path / "onnx").iterdir()) == [folder]


def test_a_graph_in_int8_that_is_not_as_it_was_made_is_made_anew(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    OnnxBackend(clip, bank, cache, int8=True)
    (file,) = cache.glob("onnx/*/image-int8.onnx")
    made = file.read_bytes()
    file.write_bytes(made[: len(made) // 2])
    OnnxBackend(clip, bank, cache, int8=True)
    assert "not as it was made" in caplog.text
    assert len(file.read_bytes()) == len(made)


def settings_for(backend: str, cache: Path, **more: str) -> Settings:
    return Settings(backend=backend, cache_dir=cache, **more)


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_the_backend_that_is_asked_for_runs(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, name: str
) -> None:
    assert backends.open_backend(settings_for(name, cache), clip, bank, 2).name == name


def test_where_onnx_runtime_cannot_run_any_more_auto_says_why_and_takes_torch(
    clip: FrozenCLIP,
    bank: Bank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_backend, "exported", refuse)
    decided, asked = settings_for("onnx", tmp_path), settings_for("auto", tmp_path)
    with caplog.at_level(logging.WARNING):
        assert wiring.open_decided(asked, decided, clip, bank, 2).name == "torch"
    assert "no such operator" in caplog.text
    with pytest.raises(UnsupportedModel, match="no such operator"):
        wiring.open_decided(decided, decided, clip, bank, 2)


def test_weights_in_bf16_are_not_exported(clip: FrozenCLIP, bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="float32"):
        OnnxBackend(clip.twin("bf16"), bank, tmp_path)


def test_features_that_differ_are_not_served(
    clip: FrozenCLIP, bank: Bank, cache: Path, onnx: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxBackend.images
    monkeypatch.setattr(OnnxBackend, "images", lambda *given: right(*given) + np.float32(0.01))
    with pytest.raises(UnsupportedModel, match="differ from torch's"):
        backends.open_backend(settings_for("onnx", cache), clip, bank, 2)


def test_an_export_cut_short_leaves_nothing_that_is_taken_for_one(
    clip: FrozenCLIP, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", stop)
    with pytest.raises(KeyboardInterrupt):
        OnnxBackend(clip, bank, tmp_path)
    assert list((tmp_path / "onnx").iterdir()) == []


def test_onnx_runtime_is_installed_with_the_providers_it_needs() -> None:
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()


@torch.inference_mode()
def test_lower_states_of_a_prompt_are_made_once_for_all_tenants(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, computed = LowerText(clip, 2, limit=4), []
    plain = clip.text_lower
    monkeypatch.setattr(
        clip, "text_lower", lambda ids, first: (computed.append(len(ids)), plain(ids, first))[1]
    )
    first = lower(["a dog", "a cat", "a dog"])
    again = lower(["a dog", "a cat", "a dog"])
    assert computed == [2]
    assert all(map(torch.equal, first, again))
    lower(PROMPTS)  # six: what it holds stays within its limit
    assert len(lower) == 4


@torch.inference_mode()
def test_kept_lower_states_give_the_features_of_the_whole_tower(
    clip: FrozenCLIP, bank: Bank, plain: Backend
) -> None:
    """Whatever lengths share a batch with a prompt."""
    slots = [1, 2, 3]
    for prompts in (PROMPTS[:3], PROMPTS[2::-1]):
        ids = clip.tokenize(prompts)
        whole = clip.text_upper(clip.text_lower(ids, 1), ids, 1, bank.text.delta(slots))
        assert np.abs(plain.texts(prompts, slots) - whole.numpy()).max() < TOLERANCE
