"""Everything that runs on the device stays there, in its type, and waits for it once a batch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
)

from adapters.bank import AdapterWeights, Bank, TowerWeights, gathered
from adapters.clip import FrozenCLIP, load_clip
from adapters.evidence import Evidence, judge
from adapters.rmadapter import CLIPAdapters
from service.inference import torch_backend
from service.inference.torch_backend import TorchBackend
from tests.support.fake_card import DOWNLOAD, HOST_INDEX, UPLOAD, Card, MixedTypes, fake_card
from tests.support.random_adapters import random_head, random_weights
from training.data import ImageSet
from training.fit import batch_loss, cosines, default_settings, prepare

ROWS, SLOTS = 3, [[0, 0, 0], [2, 2, 2], [2, 0, 1]]
PROMPTS = ["a dog", "a photo of a crab.", "a wild cat"]


@dataclass(frozen=True)
class Placed:
    """The bundled CLIP on a fake card, with a bank of adapters beside it."""

    clip: FrozenCLIP
    bank: Bank
    card: Card
    head: Evidence

    def pixels(self) -> Tensor:
        size = self.clip.spec.size
        return torch.zeros(ROWS, 3, size, size, dtype=torch.uint8)

    def see(self, slots: list[int]) -> Tensor:
        first = self.bank.image.first
        tokens = self.clip.image_lower(self.pixels(), first)
        return self.clip.image_upper(tokens, first, self.bank.image.delta(slots))


@pytest.fixture(params=["fp32", "bf16"])
def placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Placed]:
    clip = load_clip()
    weights, head = random_weights(clip, 1), random_head(4, width=clip.embed_dim).float()
    monkeypatch.setattr(torch_backend, "as_array", Tensor.cpu)  # a fake tensor has no numbers
    with fake_card() as card:
        clip.move("cuda", request.param)
        bank = Bank(clip.image, clip.text, 3, 32, 3, 2, clip.device, clip.dtype)
        bank.write(1, weights)
        card.seen.clear()
        yield Placed(clip, bank, card, head)


@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_a_batch_of_pictures_waits_for_the_card_once(placed: Placed, slots: list[int]) -> None:
    pixels = list(np.zeros(placed.pixels().shape, np.uint8))
    features = TorchBackend(placed.clip, placed.bank).images(pixels, slots)
    assert features.shape == (ROWS, placed.clip.embed_dim)
    assert features.dtype == torch.float32
    assert (placed.card.waits(), placed.card.seen[DOWNLOAD]) == (1, 1)
    assert placed.card.seen[UPLOAD] <= 2  # the pixels, and the numbers of the slots
    assert not placed.card.seen[HOST_INDEX]


@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_a_batch_of_prompts_waits_for_the_card_once(placed: Placed, slots: list[int]) -> None:
    backend = TorchBackend(placed.clip, placed.bank)
    for _ in ("new prompts", "known prompts"):
        placed.card.seen.clear()
        features = backend.texts(PROMPTS, slots)
        assert features.dtype == torch.float32
        assert (placed.card.waits(), placed.card.seen[DOWNLOAD]) == (1, 1)
        assert not placed.card.seen[HOST_INDEX]


def test_weights_lie_on_the_card_in_the_type_of_the_precision(placed: Placed) -> None:
    clip, bank = placed.clip, placed.bank
    towers = {t.dtype for t in (*bank.image.tensors(), *bank.text.tensors())}
    assert towers == {clip.dtype}
    blocks = [*clip.model.visual.transformer.parameters(), *clip.model.transformer.parameters()]
    assert {t.dtype for t in blocks} == {clip.dtype}
    everything = [*clip.model.parameters(), *clip.model.buffers(), *bank.image.tensors()]
    assert {t.device.type for t in everything} == {"cuda"}


def test_a_swap_waits_for_nothing(placed: Placed) -> None:
    placed.bank.write(2, blank_weights(placed))
    assert placed.card.waits() == 0


def blank_weights(placed: Placed) -> AdapterWeights:
    """Of the right shapes, on the CPU in float32, as an artifact gives them."""
    first = placed.bank.image.first, placed.bank.text.first
    towers = zip((placed.bank.image, placed.bank.text), first, strict=True)
    made = [
        TowerWeights(at, *(torch.zeros(t.shape[1:]) for t in tower.tensors()))
        for tower, at in towers
    ]
    return AdapterWeights(*made)


def test_a_fit_prepares_and_judges_on_the_card_without_waiting(placed: Placed) -> None:
    clip, settings = placed.clip, default_settings(placed.clip)
    data = ImageSet(placed.pixels(), torch.arange(ROWS), ("crab", "lotus", "wild cat"))
    prepared = prepare(clip, data, settings)
    with torch.device("cuda"):
        adapters = CLIPAdapters(clip.image, clip.text, settings.adapter)
        rows = torch.arange(ROWS)
    loss = batch_loss(clip, adapters, prepared)(rows)
    judged = cosines(clip, prepared, adapters, rows)
    assert {p.dtype for p in adapters.parameters()} == {torch.float32}
    assert (prepared.images.tokens.dtype, loss.dtype) == (clip.dtype, torch.float32)
    assert (loss.device.type, judged.device.type, judged.dtype) == ("cuda", "cuda", torch.float32)
    assert placed.card.waits() == 0
    assert not placed.card.seen[HOST_INDEX]


def on_card(head: Evidence) -> Evidence:
    parts = {n: getattr(head, n).to("cuda") for n in ("photos", "coefficients", "text")}
    return replace(head, **parts)


def test_the_head_judges_where_it_lies(placed: Placed) -> None:
    head = on_card(placed.head)
    features = placed.see([0] * ROWS)
    placed.card.seen.clear()
    assert judge(head, features).device.type == "cuda"
    assert not +placed.card.seen


# Planted errors: what a card would be slow at, or refuse, and a CPU never notices.


def test_a_mean_that_was_left_on_the_cpu_is_caught(placed: Placed) -> None:
    placed.clip._mean = torch.zeros(3, 1, 1)
    with pytest.raises(FakeTensorDeviceMismatchError):
        placed.see([0] * ROWS)


def test_slot_numbers_that_were_left_on_the_cpu_are_caught(placed: Placed) -> None:
    bank = placed.bank.image
    tokens = placed.clip.image_lower(placed.pixels(), bank.first)
    delta = gathered(torch.tensor([2, 0, 1]), bank.first, bank.tensors())
    placed.clip.image_upper(tokens, bank.first, delta)
    assert placed.card.seen[HOST_INDEX]


def test_a_head_that_was_left_on_the_cpu_is_caught(placed: Placed) -> None:
    features = placed.see([0] * ROWS)
    placed.card.seen.clear()
    judge(placed.head, features)
    assert placed.card.seen[UPLOAD] == 3  # its photos, coefficients and names, in every batch


def test_a_bank_in_another_type_than_the_towers_is_caught(placed: Placed) -> None:
    clip = placed.clip
    other = torch.float32 if clip.dtype == torch.bfloat16 else torch.bfloat16
    bank = Bank(clip.image, clip.text, 3, 32, 3, 2, clip.device, other)
    tokens = clip.image_lower(placed.pixels(), 3)
    for slots in ([1, 1, 1], [1, 0, 2]):
        with pytest.raises(MixedTypes):
            clip.image_upper(tokens, 3, bank.image.delta(slots))


def test_a_text_tower_with_a_float32_norm_is_caught(placed: Placed) -> None:
    if placed.clip.precision == "fp32":
        pytest.skip("float32 is the type there")
    placed.clip.model.ln_final.float()
    with pytest.raises(MixedTypes, match="layer_norm"):
        TorchBackend(placed.clip, placed.bank).texts(PROMPTS, [0] * ROWS)


def test_a_number_read_in_the_middle_of_a_batch_is_caught(placed: Placed) -> None:
    features = placed.see([0] * ROWS)
    with pytest.raises(DataDependentOutputException):
        features.sum().item()
    assert placed.card.waits() == 1
