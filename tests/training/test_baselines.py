"""Each peer against what its paper states."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters.classify import TEMPLATE
from adapters.clip import FrozenCLIP
from adapters.config import TowerShape
from adapters.errors import RMAdapterError, UnsupportedModel
from adapters.evidence import NO_PHOTOS, values
from adapters.rmadapter import CLIPAdapters
from training.data import ImageSet
from training.evaluation import evaluate_and_fit
from training.fit import class_features, default_settings, image_features, prepare
from training.peers import METHODS, MethodSettings, fit_method, method_settings
from training.peers.lora import LoRA, LoRASettings
from training.peers.lp import LinearProbe
from training.peers.mma import MMA, MMASettings, augmented
from training.peers.pool import Pool, make_pool
from training.peers.rmadapter import prepare_pool, trained_parameters
from training.peers.tip import TipSettings, cache_logits, fit_tip

OTHERS = ("a starfish", "an umbrella")


@pytest.fixture(scope="module")
def pool(clip: FrozenCLIP, few: ImageSet) -> Pool:
    return make_pool(clip, few)


@pytest.fixture(scope="module")
def settings(clip: FrozenCLIP) -> MethodSettings:
    """Few steps: what is tested is not how good a fit is."""
    fit = replace(default_settings(clip), epochs=2, min_steps=2)
    few = {"lora": LoRASettings(steps_per_shot=1), "mma": MMASettings(epochs=1)}
    return replace(method_settings(clip), fit=fit, **few)


def zero_shot(clip: FrozenCLIP, pool: Pool, classes) -> torch.Tensor:
    return pool.features @ class_features(clip, None, classes, TEMPLATE).T


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers_for_fitted_and_for_other_names(clip, pool, settings, name):
    fitted = fit_method(name, clip, pool, settings, seed=1)
    base, novel = fitted.cosines(pool, pool.classes), fitted.cosines(pool, OTHERS)
    assert base.shape == (len(pool), 3)
    assert novel.shape == (len(pool), 2)
    assert base.isfinite().all()
    assert (fitted.parameters > 0) == (name != "zero-shot")


@pytest.mark.parametrize("name", ["lp++", "tip-adapter-f"])
def test_methods_bound_to_their_classes_are_zero_shot_on_others(clip, pool, settings, name):
    fitted = fit_method(name, clip, pool, settings, seed=1)
    assert torch.equal(fitted.cosines(pool, OTHERS), zero_shot(clip, pool, OTHERS))


@pytest.mark.parametrize("name", ["clip-lora", "mma", "rmadapter", "rmadapter+photos"])
def test_the_same_seed_gives_the_same_fit(clip, pool, settings, name):
    one, two = (fit_method(name, clip, pool, settings, seed=3) for _ in range(2))
    assert torch.equal(one.cosines(pool, pool.classes), two.cosines(pool, pool.classes))


def test_with_photos_the_answer_is_that_of_a_tenants_own_fit(clip, few, pool, settings):
    """The protocol's method against the service's fit, for the fitted names and for others too."""
    ours = fit_method("rmadapter+photos", clip, pool, settings, seed=1)
    served, _ = evaluate_and_fit(clip, prepare(clip, few, replace(settings.fit, seed=1)))
    images = image_features(clip, served.adapters, few.pixels)
    names = (OTHERS[0], *few.classes, OTHERS[1])
    text = class_features(clip, served.adapters, names, TEMPLATE)
    columns = torch.tensor([NO_PHOTOS, 0, 1, 2, NO_PHOTOS])
    expected = values(served.head.float(), images, text, columns)
    torch.testing.assert_close(ours.cosines(pool, names), expected, atol=1e-4, rtol=0)


def test_an_unknown_method_is_named_with_those_there_are(clip, pool, settings):
    with pytest.raises(RMAdapterError, match=r"coop.*tip-adapter-f"):
        fit_method("coop", clip, pool, settings, seed=1)


def test_a_pool_without_tokens_answers_as_one_with_them(clip, pool, settings):
    fitted = fit_method("rmadapter", clip, pool, settings, seed=1)
    bare = Pool(pool.images, None, pool.features)
    expected = fitted.cosines(pool, pool.classes)
    torch.testing.assert_close(fitted.cosines(bare, pool.classes), expected)


def test_a_pool_is_prepared_as_the_pictures_themselves_are(clip, few, pool, settings):
    ours, theirs = prepare_pool(clip, pool, settings.fit), prepare(clip, few, settings.fit)
    torch.testing.assert_close(ours.images.tokens, theirs.images.tokens)
    torch.testing.assert_close(ours.images.features, theirs.images.features)
    assert torch.equal(ours.labels, theirs.labels)


def test_lp_starts_at_the_class_means_blended_with_text(clip, pool):
    text = class_features(clip, None, pool.classes, TEMPLATE)
    probe = LinearProbe(pool.features, pool.labels, text, 250.0)
    means = torch.stack([pool.features[pool.labels == c].mean(0) for c in range(3)])
    torch.testing.assert_close(probe.weight.data, 6 * means)  # six shots
    own = torch.stack([(pool.features[pool.labels == c] @ text[c]).mean() for c in range(3)])
    torch.testing.assert_close(probe.alpha.data, (250 * own.mean()).expand(3))
    expected = pool.features @ (6 * means).T + probe.alpha.data * (pool.features @ text.T)
    torch.testing.assert_close(probe(pool.features).data, expected)


def test_lp_learns_its_training_pictures(clip, pool, settings):
    fitted = fit_method("lp++", clip, pool, settings, seed=1)
    right = fitted.cosines(pool, pool.classes).argmax(1) == pool.labels
    assert right.float().mean() > 0.95
    assert fitted.parameters == 3 * pool.features.shape[1] + 3 + 3


def test_tip_adapter_untrained_is_the_papers_cache_formula(clip, pool, settings):
    plan = TipSettings(epochs=0, search=False)
    fitted = fit_tip(clip, pool, settings.fit.template, plan, seed=1)
    values = torch.eye(3)[pool.labels]
    affinity = pool.features @ pool.features.T
    cache = 1.0 * torch.exp(-5.5 * (1 - affinity)) @ values
    expected = clip.logit_scale * zero_shot(clip, pool, pool.classes) + cache
    torch.testing.assert_close(fitted.cosines(pool, pool.classes), expected)
    assert fitted.parameters == pool.features.numel()


def test_a_cache_of_the_picture_itself_adds_alpha_to_its_class():
    key = nn.functional.normalize(torch.ones(1, 4), dim=1)
    logits = cache_logits(key, key, torch.tensor([[0.0, 1.0]]), alpha=2.0, beta=5.5)
    torch.testing.assert_close(logits, torch.tensor([[0.0, 2.0]]))


def test_lora_starts_as_zero_shot(clip, pool, settings):
    plan = replace(settings, lora=LoRASettings(steps_per_shot=0))
    fitted = fit_method("clip-lora", clip, pool, plan, seed=1)
    expected = zero_shot(clip, pool, pool.classes)
    actual = fitted.cosines(pool, pool.classes)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)


def test_lora_adapts_q_k_and_v_of_every_block_of_both_towers(clip):
    lora = LoRA(clip, LoRASettings())
    assert len(lora.attentions) == clip.image.blocks + clip.text.blocks
    shapes = {tuple(p.shape) for p in lora.attentions[0].parameters()}
    assert shapes == {(3, 2, clip.image.width), (3, clip.image.width, 2)}


def test_a_lora_step_changes_every_update_and_leaves_the_clip_as_it_was(clip, pool):
    before = [block.attn for block in clip.model.visual.transformer.resblocks]
    frozen = zero_shot(clip, pool, pool.classes)
    lora = LoRA(clip, LoRASettings(dropout=0.0))
    ids = clip.tokenize(list(pool.classes))
    with lora.injected():
        seen = clip.image_upper(pool.tokens, 1)
        named = clip.text_upper(clip.text_lower(ids, 1), ids, 1)
        nn.functional.cross_entropy(clip.logit_scale * seen @ named.T, pool.labels).backward()
    for attention in lora.attentions:
        assert all(part.abs().sum() > 0 for part in attention.up.grad)
    assert [block.attn for block in clip.model.visual.transformer.resblocks] == before
    assert torch.equal(zero_shot(clip, pool, pool.classes), frozen)
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_lora_on_an_attention_without_joint_weights_is_an_error(clip):
    block = clip.model.transformer.resblocks[0]
    attention, block.attn = block.attn, nn.Identity()
    try:
        with pytest.raises(UnsupportedModel, match="in_proj_weight"):
            LoRA(clip, LoRASettings())
    finally:
        block.attn = attention


VIT_B_16 = TowerShape(768, 12), TowerShape(512, 12)


class Normed(nn.Module):
    """A block, as far as MMA's adapters read it."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(8)
        nn.init.normal_(self.ln_1.weight)


@pytest.fixture
def mma() -> MMA:
    torch.manual_seed(0)
    return MMA(TowerShape(8, 3), TowerShape(8, 3), MMASettings(rank=4))


def plain_mma(mma: MMA, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """The adapter of the uppermost image block, as MMA's paper has it."""
    down, up = mma.image[0].children()
    return 1e-3 * up(mma.shared[0](down(norm(x)).relu()).relu())


def test_mma_has_the_size_that_its_paper_states_on_vit_b_16():
    assert sum(p.numel() for p in MMA(*VIT_B_16, MMASettings()).parameters()) == 674_560


def test_mma_has_its_papers_rate_but_on_the_bundled_clip(clip):
    assert method_settings(clip).mma.learning_rate == 5e-3
    assert replace(method_settings(clip).mma, learning_rate=1.5e-3) == MMASettings()


def test_mma_adds_its_papers_formula_to_the_upper_blocks_alone(mma):
    blocks, x = nn.ModuleList(Normed() for _ in range(3)), torch.randn(2, 5, 8)
    added = mma.delta(mma.image, blocks)
    torch.testing.assert_close(added(3, x), plain_mma(mma, x, blocks[2].ln_1))
    assert added(2, x) is not None
    assert added(1, x) is None


def test_mma_scales_the_gradient_of_its_weights_by_one_over_alpha_and_no_others(mma):
    blocks, x = nn.ModuleList(Normed() for _ in range(3)), torch.randn(2, 5, 8, requires_grad=True)
    weights = [mma.image[0][0].weight, mma.shared[0].weight, mma.image[0][1].bias]

    def gradients(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(y.square().sum(), [x, *weights])

    true = gradients(plain_mma(mma, x, blocks[2].ln_1))
    theirs = gradients(mma.delta(mma.image, blocks)(3, x))
    torch.testing.assert_close(theirs[0], true[0])
    for scaled, plain in zip(theirs[1:], true[1:], strict=True):
        torch.testing.assert_close(scaled, 1000 * plain)


def test_mmas_towers_share_a_projection_from_the_top_where_their_depths_differ():
    mma = MMA(TowerShape(8, 6), TowerShape(8, 4), MMASettings(rank=4))
    assert (len(mma.image), len(mma.text), len(mma.shared)) == (4, 3, 4)
    text = mma.delta(mma.text, nn.ModuleList(Normed() for _ in range(4)))
    text(4, torch.randn(1, 2, 8)).sum().backward()
    used = [linear.weight.grad is not None for linear in mma.shared]
    assert used == [True, False, False, False]


def test_mma_starts_near_zero_shot_and_its_fit_moves_it(clip, pool, settings):
    frozen = zero_shot(clip, pool, pool.classes)
    still = replace(settings, mma=MMASettings(epochs=0))
    start = fit_method("mma", clip, pool, still, seed=1).cosines(pool, pool.classes)
    fitted = fit_method("mma", clip, pool, settings, seed=1).cosines(pool, pool.classes)
    torch.testing.assert_close(start, frozen, atol=0.05, rtol=0)
    assert not torch.equal(start, frozen)
    assert not torch.equal(fitted, start)


def test_mma_sees_other_parts_of_a_picture_each_time_and_the_frozen_clip_stays(clip, pool):
    pixels = pool.images.pixels[:4]
    torch.manual_seed(0)
    one, two = augmented(pixels), augmented(pixels)
    assert one.shape == pixels.shape and one.dtype == pixels.dtype
    assert not torch.equal(one, two)
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_the_reconstruction_branch_has_the_papers_size_on_vit_b_16(clip):
    config = replace(default_settings(clip).adapter, image_first=5, text_first=5)
    adapters = CLIPAdapters(*VIT_B_16, config)
    extra = trained_parameters(adapters, True) - trained_parameters(adapters, False)
    assert extra == 8 * 32 * (768 + 512) + 8 * (768 + 512) + 16 * (32 * 32 + 32)  # 354,816
