"""The frozen CLIP in parts is open_clip's own CLIP."""

import json
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import open_clip
import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import save_file
from torch.nn import functional as F

from adapters.clip import FrozenCLIP, load_clip, trained_with_quick_gelu
from adapters.errors import BadClasses, UnsupportedModel
from tests.support.paths import ROOT
from tests.support.random_adapters import random_adapters
from training.data import ImageSet

PROMPTS = ["a photo of a crab.", "a photo of a wild cat in the tall grass."]


@pytest.fixture(scope="module", params=["bundled", "ViT-B-16"])
def any_clip(request: pytest.FixtureRequest, clip: FrozenCLIP) -> FrozenCLIP:
    """The bundled one, and ViT-B/16 with random weights."""
    if request.param == "bundled":
        return clip
    torch.manual_seed(0)
    return load_clip("ViT-B-16", pretrained=None)


@torch.inference_mode()
def open_clips_own(clip: FrozenCLIP, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (clip.spec.mean, clip.spec.std))
    return clip.model.encode_image((pixels.float() - mean) / std, normalize=True)


@torch.inference_mode()
def test_in_bf16_features_and_answers_are_float32s(any_clip: FrozenCLIP, images: ImageSet) -> None:
    """With an adapter or without, pictures and prompts; float32 is the reference."""
    half = any_clip.twin("bf16")
    prompts = [f"a photo of a {name}." for name in images.classes]
    ids, trained = any_clip.tokenize(prompts), any_clip.name == "bundled"
    pixels = images.pixels[:: 2 if trained else 48]
    delta = random_adapters(any_clip, 1)
    for see, read in ((None, None), (delta.image.delta, delta.text.delta)):
        (seen, named), (exact, exact_named) = (
            (
                clip.image_upper(clip.image_lower(pixels, 1), 1, see),
                clip.text_upper(clip.text_lower(ids, 1), ids, 1, read),
            )
            for clip in (half, any_clip)
        )
        assert seen.dtype == named.dtype == torch.float32
        assert (seen * exact).sum(1).min() > 0.9995
        assert (named * exact_named).sum(1).min() > 0.9995
        if trained:
            same = (seen @ named.T).argmax(1) == (exact @ exact_named.T).argmax(1)
            assert same.float().mean() > 0.98


def test_a_precision_changes_neither_the_fingerprint_nor_the_float32_weights(
    clip: FrozenCLIP,
) -> None:
    half = clip.twin("bf16")
    assert half.fingerprint == clip.fingerprint == load_clip(precision="bf16").fingerprint
    assert (half.precision, clip.precision) == ("bf16", "fp32")
    assert {p.dtype for p in clip.model.parameters()} == {torch.float32}
    assert half.prompt_ids("crab") == clip.prompt_ids("crab")


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@torch.inference_mode()
def test_pictures_cut_anywhere_are_open_clips(
    any_clip: FrozenCLIP, images: ImageSet, part: float
) -> None:
    pixels = images.pixels[:4]
    first = 1 + int(part * any_clip.image.blocks)
    ours = any_clip.image_upper(any_clip.image_lower(pixels, first), first)
    assert (ours - open_clips_own(any_clip, pixels)).abs().max() < 1e-6


@torch.inference_mode()
def test_prompts_cut_to_the_longest_are_open_clips_at_full_length(any_clip: FrozenCLIP) -> None:
    ids = any_clip.tokenize(PROMPTS)
    full = F.pad(ids, (0, any_clip.context_length - ids.shape[1]))
    exact = any_clip.model.encode_text(full, normalize=True)
    for first in range(1, any_clip.text.blocks + 2):
        ours = any_clip.text_upper(any_clip.text_lower(ids, first), ids, first)
        assert (ours - exact).abs().max() < 1e-6


@torch.inference_mode()
def test_a_known_output_of_the_first_block_changes_nothing(
    any_clip: FrozenCLIP, images: ImageSet
) -> None:
    """Down to an adapter in the last block alone, with and without what that block makes."""
    adapters = random_adapters(any_clip, 1)
    for first in (any_clip.image.blocks // 2, any_clip.image.blocks):
        tokens = any_clip.image_lower(images.pixels[:2], first)
        after = any_clip.image_between(tokens, first, first + 1)
        plain = any_clip.image_upper(tokens, first, adapters.image.delta)
        known = any_clip.image_upper(tokens, first, adapters.image.delta, after)
        assert (plain - known).abs().max() < 1e-6
    ids = any_clip.tokenize(PROMPTS)
    for first in (any_clip.text.blocks // 2, any_clip.text.blocks):
        tokens, after = any_clip.text_lower(ids, first), any_clip.text_lower(ids, first + 1)
        plain = any_clip.text_upper(tokens, ids, first, adapters.text.delta)
        known = any_clip.text_upper(tokens, ids, first, adapters.text.delta, after)
        assert (plain - known).abs().max() < 1e-6


def test_tokens_are_open_clips_cut_to_the_longest(clip: FrozenCLIP) -> None:
    ids = clip.tokenize(PROMPTS)
    full = open_clip.get_tokenizer("ViT-B-16")(PROMPTS)
    assert torch.equal(ids, full[:, : ids.shape[1]])
    assert not full[:, ids.shape[1] :].any()


def test_a_prompt_past_the_context_is_named(clip: FrozenCLIP) -> None:
    with pytest.raises(BadClasses, match=r"crab crab.* tokens, more than this model's 32"):
        clip.tokenize(["crab " * 40])


def test_the_models_weights_are_frozen(clip: FrozenCLIP) -> None:
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_the_fingerprint_tells_weights_apart() -> None:
    torch.manual_seed(0)
    one = load_clip("ViT-B-32", pretrained=None)
    other = load_clip("ViT-B-32", pretrained=None)
    assert one.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 64


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32"])
def test_other_towers_are_refused_with_what_is_supported(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="supported: the bundled CLIP, and open_clip's ViT"):
        load_clip(name, pretrained=None)


@pytest.mark.parametrize(
    ("name", "pretrained"), [("ViT-B-16", "no-such-tag"), ("no-such-model", None)]
)
def test_unknown_models_and_weights_are_refused(name: str, pretrained: str | None) -> None:
    with pytest.raises(UnsupportedModel, match=name):
        load_clip(name, pretrained)


def test_openais_weights_get_the_activation_they_were_trained_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {}

    def remember(name: str, pretrained: str, **options: bool) -> None:
        asked.update(options)
        raise RuntimeError("enough")

    monkeypatch.setattr(open_clip, "create_model", remember)
    with pytest.raises(UnsupportedModel):
        load_clip("ViT-B-16", "openai")
    assert asked["force_quick_gelu"] is True


def a_config_that_says(folder: Path, quick_gelu: bool) -> None:
    config = {"model_cfg": {"quick_gelu": quick_gelu}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def as_torchscript(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # as torch.jit.save names the parts
        for part in ("data.pkl", "code/__torch__/multimodal/model/model.py", "constants.pkl"):
            archive.writestr(f"{file.stem}/{part}", "")


@pytest.mark.parametrize(
    ("name", "make", "expected", "warns"),
    [
        ("ViT-B-16", lambda file: a_config_that_says(file.parent, True), True, False),
        ("ViT-B-16", lambda file: a_config_that_says(file.parent, False), False, False),
        ("ViT-B-16", as_torchscript, True, False),
        ("ViT-B-16", lambda file: torch.save({}, file), False, True),
        ("ViT-B-16", lambda file: save_file({}, file), False, True),
        ("ViT-B-16-quickgelu", lambda file: torch.save({}, file), False, False),  # by its name
    ],
    ids=["config", "config without", "TorchScript", "PyTorch", "safetensors", "name"],
)
def test_a_files_activation_is_known_or_a_warning_says_that_it_is_not(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    make: Callable[[Path], None],
    expected: bool,
    warns: bool,
) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    make(file)
    assert trained_with_quick_gelu(name, str(file)) is expected
    assert ("name the model ViT-B-16-quickgelu" in caplog.text) is warns


@pytest.mark.parametrize("config", ["{", "[]", "{}"])
def test_a_broken_config_beside_a_file_is_refused_with_the_files_name(
    tmp_path: Path, config: str
) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(UnsupportedModel, match=r"cannot load ViT-B-16 \(.*weights\.pt\)"):
        load_clip("ViT-B-16", str(file))


def test_open_clip_is_in_the_range_that_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = [Requirement(line) for line in project["project"]["optional-dependencies"]["server"]]
    pin = next(pin for pin in pins if pin.name == "open_clip_torch")
    assert version("open_clip_torch") in pin.specifier
    assert {spec.operator for spec in pin.specifier} == {">=", "<"}
