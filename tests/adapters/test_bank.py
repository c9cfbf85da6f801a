"""Many adapters in one batch give what each gives alone."""

from dataclasses import replace

import pytest
import torch

from adapters.bank import Bank, export
from adapters.clip import FrozenCLIP
from adapters.config import TowerShape
from adapters.errors import DoesNotFit
from tests.support.random_adapters import random_adapters, random_weights
from training.data import ImageSet
from training.fit import class_features, image_features

TOLERANCE = 2e-6  # a batched and a plain product add up in another order


def bank_for(clip: FrozenCLIP, slots: int = 17, **changes: int) -> Bank:
    place = {"rank": 32, "image_first": 3, "text_first": 2} | changes
    return Bank(clip.image, clip.text, slots, **place)


@torch.inference_mode()
def see(clip: FrozenCLIP, bank: Bank, pixels: torch.Tensor, slots: list[int]) -> torch.Tensor:
    first = bank.image.first
    return clip.image_upper(clip.image_lower(pixels, first), first, bank.image.delta(slots))


@torch.inference_mode()
def read(clip: FrozenCLIP, bank: Bank, prompts: list[str], slots: list[int]) -> torch.Tensor:
    ids, first = clip.tokenize(prompts), bank.text.first
    return clip.text_upper(clip.text_lower(ids, first), ids, first, bank.text.delta(slots))


def test_slot_zero_is_the_frozen_clip_to_the_bit(clip: FrozenCLIP, images: ImageSet) -> None:
    pixels = images.pixels[:4]
    assert torch.equal(
        see(clip, bank_for(clip), pixels, [0] * 4), image_features(clip, None, pixels)
    )


def test_slot_zero_beside_an_adapter_is_the_frozen_clip(clip: FrozenCLIP, images: ImageSet) -> None:
    bank, pixels = bank_for(clip), images.pixels[:4]
    bank.write(1, random_weights(clip, 1))
    mixed = see(clip, bank, pixels, [0, 1, 0, 1])
    frozen = image_features(clip, None, pixels)
    assert torch.equal(mixed[[0, 2]], frozen[[0, 2]])
    assert not torch.allclose(mixed[[1, 3]], frozen[[1, 3]], atol=1e-2)


def test_a_mixed_batch_of_16_tenants_equals_16_single_runs(
    clip: FrozenCLIP, images: ImageSet
) -> None:
    bank, pixels = bank_for(clip), images.pixels[::12]
    tenants = [random_adapters(clip, seed) for seed in range(1, 17)]
    for slot, adapters in enumerate(tenants, start=1):
        bank.write(slot, export(adapters))
    slots = list(range(1, 17))
    mixed = see(clip, bank, pixels, slots)
    single = torch.cat([image_features(clip, a, pixels[i : i + 1]) for i, a in enumerate(tenants)])
    assert (mixed - single).abs().max() < TOLERANCE
    names = [f"a photo of a thing number {i}." for i in range(16)]
    single = torch.cat(
        [class_features(clip, a, (n,), "{}") for a, n in zip(tenants, names, strict=True)]
    )
    assert (read(clip, bank, names, slots) - single).abs().max() < TOLERANCE


def test_one_adapter_for_all_rows_takes_the_short_way_to_the_same_features(
    clip: FrozenCLIP, images: ImageSet
) -> None:
    bank, pixels = bank_for(clip), images.pixels[:3]
    bank.write(5, random_weights(clip, 5))
    bank.write(6, random_weights(clip, 6))
    alone = see(clip, bank, pixels[:2], [5, 5])
    gathered = see(clip, bank, pixels, [5, 5, 6])[:2]
    assert (alone - gathered).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "changes", [{"rank": 8}, {"image_first": 5}, {"text_first": 4}], ids=lambda c: next(iter(c))
)
def test_a_smaller_adapter_is_padded_without_a_trace(
    clip: FrozenCLIP, images: ImageSet, changes: dict[str, int]
) -> None:
    bank, pixels = bank_for(clip), images.pixels[:2]
    adapters = random_adapters(clip, 7, **changes)
    bank.write(1, random_weights(clip, 1))  # whose remains must not show
    bank.write(1, export(adapters))
    assert (
        see(clip, bank, pixels, [1, 1]) - image_features(clip, adapters, pixels)
    ).abs().max() < (TOLERANCE)
    expected = class_features(clip, adapters, ("crab",), "{}")
    assert (read(clip, bank, ["crab"], [1]) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 64}, "image rank 64 is above the bank's 32"),
        ({"image_first": 2}, "image adapters start at block 2, the bank at 3"),
        ({"text_first": 1}, "text adapters start at block 1, the bank at 2"),
    ],
)
def test_an_adapter_that_exceeds_the_bank_is_refused_and_nothing_changes(
    clip: FrozenCLIP, changes: dict[str, int], reason: str
) -> None:
    bank = bank_for(clip)
    bank.write(1, random_weights(clip, 1))
    before = [t.clone() for t in (bank.image.down, bank.image.up, bank.text.down, bank.text.up)]
    with pytest.raises(DoesNotFit, match=reason):
        bank.write(1, random_weights(clip, 2, **changes))
    after = [bank.image.down, bank.image.up, bank.text.down, bank.text.up]
    assert all(map(torch.equal, before, after))


def test_an_adapter_of_another_model_is_refused(clip: FrozenCLIP) -> None:
    weights = random_weights(clip, 1)
    wider = replace(weights.image, down=torch.zeros(4, 768, 32))
    with pytest.raises(DoesNotFit, match="the image tower has"):
        bank_for(clip).write(1, replace(weights, image=wider))


@pytest.mark.parametrize("slot", [0, 17, -1])
def test_only_slots_of_the_bank_can_be_written(clip: FrozenCLIP, slot: int) -> None:
    with pytest.raises(DoesNotFit, match="is not one of"):
        bank_for(clip).write(slot, random_weights(clip, 1))


def test_dropping_the_reconstruction_branch_changes_no_feature(
    clip: FrozenCLIP, images: ImageSet
) -> None:
    """The branch has no way into the output, so any values in it give the same features."""
    bank, pixels = bank_for(clip), images.pixels[:4]
    adapters = random_adapters(clip, 3)
    before = image_features(clip, adapters, pixels)
    for name, parameter in adapters.named_parameters():
        if ".rec_" in name:
            torch.nn.init.constant_(parameter, 1e3)
    bank.write(1, export(adapters))
    assert (see(clip, bank, pixels, [1] * 4) - before).abs().max() < TOLERANCE


def test_a_slot_takes_the_memory_that_is_said() -> None:
    image, text = TowerShape(768, 12), TowerShape(512, 12)
    bank = Bank(image, text, 3, 32, 5, 5)
    tensors = [
        getattr(tower, name)
        for tower in (bank.image, bank.text)
        for name in ("down", "down_bias", "up", "up_bias")
    ]
    assert sum(t.numel() * t.element_size() for t in tensors) == 3 * Bank.slot_bytes(
        image, text, 32, 5, 5
    )
