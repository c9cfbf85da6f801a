"""A fit is right, repeatable, and can be stopped."""

from dataclasses import replace

import pytest
import torch

from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset
from adapters.evidence import OFFSET, SCALE, choose_offset, fit_evidence, judge
from adapters.rmadapter import Reconstruction, TowerOutput, total_loss
from training.data import ImageSet, few_shot
from training.evaluation import evaluate_and_fit, held_out_folds
from training.fit import (
    Progress,
    class_features,
    cosines,
    default_settings,
    fit,
    fit_rows,
    image_features,
    prepare,
    steps_of,
)


@pytest.fixture(scope="module")
def quick(clip: FrozenCLIP):
    return default_settings(clip, epochs=3, min_steps=1, batch_size=9)


def test_adapters_sit_where_the_paper_puts_them(clip: FrozenCLIP) -> None:
    config = default_settings(clip).adapter
    assert (config.image_first, config.text_first) == (3, 2)  # 5 and 5 of ViT-B/16's 12


def test_the_same_seed_gives_the_same_adapter(clip: FrozenCLIP, few: ImageSet, quick) -> None:
    first, again = fit(clip, few, quick), fit(clip, few, quick)
    other = fit(clip, few, replace(quick, seed=2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_only_the_adapters_change(clip: FrozenCLIP, few: ImageSet, quick) -> None:
    before = image_features(clip, None, few.pixels)
    fit(clip, few, quick)
    assert torch.equal(image_features(clip, None, few.pixels), before)


def test_cached_lower_blocks_give_the_features_of_the_whole_model(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    """The plain reference of the cache: pictures and prompts through every block."""
    adapters = fit(clip, few, quick)
    images = image_features(clip, adapters, few.pixels)
    text = class_features(clip, adapters, few.classes, quick.template)
    cached = cosines(clip, prepare(clip, few, quick), adapters, torch.arange(len(few)))
    assert (cached - images @ text.T).abs().max() < 2e-6


def test_a_step_on_cached_blocks_is_a_step_on_the_whole_model(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    """The first step's loss against the equations over the whole model, nothing cached."""
    losses = []
    one_batch = replace(quick, batch_size=len(few), epochs=1)
    adapters = fit(clip, few, one_batch, lambda progress: losses.append(progress.loss))
    torch.manual_seed(quick.seed)
    fresh = type(adapters)(clip.image, clip.text, quick.adapter)
    ids = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in few.classes])
    counted = torch.arange(ids.shape[1]) <= ids.argmax(1, keepdim=True)
    with torch.no_grad():
        see, read = Reconstruction(fresh.image), Reconstruction(fresh.text, counted)
        x = clip.image_upper(clip.image_lower(few.pixels, 1), 1, see)
        w = clip.text_upper(clip.text_lower(ids, 1), ids, 1, read)
        frozen = (
            image_features(clip, None, few.pixels),
            class_features(clip, None, few.classes, quick.template),
        )
        loss = total_loss(
            clip.logit_scale * x @ w.T,
            few.labels,
            quick.losses,
            TowerOutput(x, frozen[0], see.error),
            TowerOutput(w, frozen[1], read.error),
        )
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)


def test_a_fit_learns_what_zero_shot_does_not_know(clip: FrozenCLIP, images: ImageSet) -> None:
    fitted, held_out = few_shot(images.labels, 16, seed=1)
    prepared = prepare(clip, images, default_settings(clip, epochs=8))
    adapters = fit_rows(clip, prepared, fitted)
    right = {
        name: (cosines(clip, prepared, a, held_out).argmax(1) == images.labels[held_out]).sum()
        for name, a in (("zero-shot", None), ("adapted", adapters))
    }
    assert right["adapted"] > right["zero-shot"] + 5  # of 64


def test_progress_counts_every_step_to_the_end(clip: FrozenCLIP, few: ImageSet, quick) -> None:
    seen: list[Progress] = []
    fit(clip, few, quick, seen.append)
    assert [p.step for p in seen] == list(range(1, 7))
    assert [p.epoch for p in seen] == [1, 1, 2, 2, 3, 3]
    assert {(p.steps, p.epochs) for p in seen} == {(6, 3)}
    assert seen[-1].loss < seen[0].loss


def test_a_small_set_gets_its_least_steps(quick) -> None:
    assert steps_of(4, replace(quick, min_steps=50)) == (50, 50)


def test_what_the_progress_raises_stops_the_fit(clip: FrozenCLIP, few: ImageSet, quick) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(clip, few, quick, stop)


def test_one_class_is_no_data_set(clip: FrozenCLIP, few: ImageSet, quick) -> None:
    with pytest.raises(BadDataset, match="at least two classes"):
        fit(clip, few.only(0, 1), quick)


def test_held_out_folds_judge_every_picture_once_and_leave_one_of_each_class() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 13)
    folds = held_out_folds(labels, seed=1)
    assert sorted(torch.cat(folds).tolist()) == list(range(20))
    for fold in folds:
        rest = labels[~torch.isin(torch.arange(20), fold)]
        assert set(rest.tolist()) == {0, 1, 2}


def test_a_single_picture_of_a_class_is_always_fitted_on() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert 3 not in torch.cat(held_out_folds(labels, seed=1))
    assert held_out_folds(torch.tensor([0, 1]), seed=1) == []


def test_many_pictures_are_judged_by_one_fold() -> None:
    labels = torch.arange(1000) % 4
    folds = held_out_folds(labels, seed=1)
    assert [len(fold) for fold in folds] == [252]


def test_a_fit_reports_both_models_on_pictures_held_back(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    seen: list[Progress] = []
    _, evaluation = evaluate_and_fit(clip, prepare(clip, few, quick), seen.append)
    parts = [p.part for p in seen]
    assert parts == sorted(parts) and set(parts) == {1, 2, 3, 4, 5}
    assert {p.parts for p in seen} == {5}
    assert evaluation.adapted.images == evaluation.zero_shot.images == len(few)
    assert seen[-1].step == seen[-1].steps
    assert [p.step for p in seen] == sorted(p.step for p in seen)


def test_one_picture_a_class_is_fitted_and_reported_as_not_measured(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    rows, _ = few_shot(few.labels, 1, seed=1)
    fitted, evaluation = evaluate_and_fit(clip, prepare(clip, few.take(rows), quick))
    assert evaluation.adapted is None
    assert evaluation.logit_scale == clip.logit_scale
    assert (fitted.head.offset, fitted.head.scale) == (OFFSET, SCALE)  # nothing could be held back
    assert not evaluation.offset_chosen


def test_the_report_is_of_the_scores_that_are_served(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    """Each fold anew, by hand: its own adapter, its own head, its pictures' values."""
    fitted, evaluation = evaluate_and_fit(clip, prepare(clip, few, quick))
    prepared, right = prepare(clip, few, quick), 0
    for fold in held_out_folds(few.labels, quick.seed):
        rows = torch.arange(len(few))[~torch.isin(torch.arange(len(few)), fold)]
        adapters = fit_rows(clip, prepared, rows)
        text = class_features(clip, adapters, few.classes, quick.template)
        photos = image_features(clip, adapters, few.pixels)
        head = fit_evidence(photos[rows], few.labels[rows], text, clip.logit_scale).float()
        right += int((judge(head, photos[fold]).argmax(1) == few.labels[fold]).sum())
    assert evaluation.adapted is not None
    assert evaluation.adapted.accuracy == pytest.approx(right / len(few))
    assert fitted.head.scale == evaluation.adapted.logit_scale


def test_the_head_is_made_of_the_adapted_features_of_all_photos(
    clip: FrozenCLIP, few: ImageSet, quick
) -> None:
    fitted, _ = evaluate_and_fit(clip, prepare(clip, few, quick))
    photos = image_features(clip, fitted.adapters, few.pixels)
    text = class_features(clip, fitted.adapters, few.classes, quick.template)
    assert (fitted.head.photos.float() - photos).abs().max() < 1e-3
    assert (fitted.head.text.float() - text).abs().max() < 1e-3
    assert fitted.head.coefficients.shape == (len(few), 3)


def test_the_offset_is_chosen_where_classes_can_be_left_out(
    clip: FrozenCLIP, images: ImageSet, quick
) -> None:
    rows, _ = few_shot(images.labels, 4, seed=1)
    data = images.take(rows)
    frozen = prepare(clip, data, replace(quick, epochs=1, batch_size=32))
    fitted, evaluation = evaluate_and_fit(clip, frozen)
    expected = choose_offset(
        frozen.images.features, data.labels, frozen.text.features, clip.logit_scale, quick.seed
    )
    assert evaluation.offset_chosen
    assert fitted.head.offset == expected
