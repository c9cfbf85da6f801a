"""Splits, files and figures of the protocols."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from adapters.classify import TEMPLATE
from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset
from tests.support.photos import coop_layout
from training.data import ImageSet
from training.fit import class_features
from training.peers.pool import Fitted, Pool, make_pool
from training.protocols import (
    base_to_novel,
    check_same_classes,
    differences,
    few_shot_accuracy,
    harmonic_mean,
    student,
    transfer,
)
from training.protocols.datasets import DataSet, read_coop, read_dataset
from training.protocols.published import DATA_SETS, MEANS


@pytest.fixture(scope="module")
def data(clip: FrozenCLIP, images: ImageSet) -> DataSet:
    return DataSet(clip, make_pool(clip, images), None)


@pytest.fixture
def coop(tmp_path: Path) -> Path:
    """Numbered against the alphabet."""
    return coop_layout(tmp_path / "flowers", ("lotus", "cup", "crab"))


def watching(seen: list):
    """A method that notes what it is given, and answers at random but for the seed's sake."""

    def fit(train: Pool, seed: int) -> Fitted:
        def cosines(pool: Pool, classes) -> torch.Tensor:
            seen.append((train, pool, tuple(classes)))
            return torch.rand(len(pool), len(classes), generator=torch.manual_seed(seed))

        return Fitted(7, cosines)

    return fit


def zero_shot(clip: FrozenCLIP):
    def cosines(pool: Pool, classes) -> torch.Tensor:
        return pool.features @ class_features(clip, None, classes, TEMPLATE).T

    return lambda train, seed: Fitted(0, cosines)


def keys(pool: Pool) -> set[bytes]:
    return {pixels.numpy().tobytes() for pixels in pool.images.pixels}


def test_the_first_half_of_the_sorted_classes_is_base(data):
    seen: list = []
    base_to_novel(data, {"a": watching(seen)}, 4, [1])
    (train, base, base_names), (_, novel, novel_names) = seen
    assert train.classes == base_names == ("crab", "cup", "dolphin", "ewer")
    assert novel_names == ("lotus", "starfish", "umbrella", "wild_cat")
    assert train.labels.bincount().tolist() == [4] * 4
    assert base.labels.bincount().tolist() == [20] * 4
    assert novel.labels.unique().tolist() == [0, 1, 2, 3]


def test_mixed_lists_judge_both_halves_among_all_names(data):
    """A method that knows the base names alone, and answers with a novel name for all others."""

    def fit(train: Pool, seed: int) -> Fitted:
        def cosines(pool: Pool, classes) -> torch.Tensor:
            places = torch.tensor([classes.index(name) for name in pool.classes])
            right = torch.nn.functional.one_hot(places[pool.labels], len(classes)).float()
            if "lotus" in pool.classes and len(classes) == 8:  # novel photos: all called wild_cat
                right = torch.zeros_like(right)
                right[:, classes.index("wild_cat")] = 1
            return right

        return Fitted(7, cosines)

    (result,) = base_to_novel(data, {"a": fit}, 4, [1, 2], mixed=True)
    assert (result.base, result.novel) == (1.0, 1.0)
    assert result.mixed is not None
    assert (result.mixed.base, result.mixed.novel) == pytest.approx((1.0, 0.25))
    assert result.mixed.hm == pytest.approx(0.4)
    assert json.loads(json.dumps(result.summary()))["mixed"]["novel"] == pytest.approx(0.25)


def test_no_test_picture_is_among_the_drawn(data):
    for seed in (1, 2):
        train, test = data.draw(16, seed)
        assert not keys(train) & keys(test)
        assert len(train) + len(test) == len(data.train.labels)


def test_seeds_draw_differently_and_the_same_seed_alike(data):
    one, again, two = (data.draw(4, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one.images.pixels, again.images.pixels)
    assert not torch.equal(one.images.pixels, two.images.pixels)


def test_with_all_pictures_drawn_there_is_nothing_to_test_on(data):
    with pytest.raises(BadDataset, match="24 shots"):
        data.draw(24, 1)


def test_a_result_holds_means_intervals_and_every_seed(clip, data):
    (result,) = base_to_novel(data, {"zero-shot": zero_shot(clip)}, 4, [1, 2])
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["method"] == "zero-shot"
    assert plain["seeds"] == [1, 2]
    assert plain["base"] == pytest.approx(sum(plain["base_by_seed"]) / 2)
    assert plain["base_ci"][0] < plain["base"] < plain["base_ci"][1]
    assert plain["hm"] == pytest.approx(harmonic_mean(plain["base"], plain["novel"]))
    assert sum(map(sum, plain["confusion"])) == 2 * 4 * 20


def test_few_shot_trains_and_tests_on_all_classes(data):
    seen: list = []
    (result,) = few_shot_accuracy(data, {"a": watching(seen)}, 2, [1])
    (train, test, names) = seen[0]
    assert train.classes == test.classes == names == data.classes
    assert result.novel is None
    assert result.parameters == 7


def test_a_transfer_tests_each_target_among_its_own_names(data):
    seen: list = []
    all_photos = data.everything()
    target = DataSet(data.clip, all_photos.only(2, 5), None)
    results = transfer(data, {"three": target}, {"a": watching(seen)}, 2, [1])
    assert seen[0][2] == ("dolphin", "ewer", "lotus")
    assert len(seen[0][1]) == 72  # all its pictures: none was trained on
    assert results[0].target == "three"


def test_domains_must_share_their_classes(data):
    part = DataSet(data.clip, data.everything().only(0, 3), None)
    check_same_classes(data, {"part": part})
    with pytest.raises(BadDataset, match="ewer"):
        check_same_classes(part, {"whole": data})


def test_differences_are_paired_over_seeds(data, clip):
    plan = {"rmadapter": zero_shot(clip), "zero-shot": zero_shot(clip), "a": watching([])}
    same, other = differences(base_to_novel(data, plan, 4, [1, 2, 3]))
    assert (same.peer, same.mean, same.interval) == ("zero-shot", 0.0, (0.0, 0.0))
    assert other.peer == "a"
    assert other.interval[0] < other.mean < other.interval[1]


def test_students_interval_of_three_seeds_has_its_wide_tails():
    low, high = student([1.0, 2.0, 3.0])
    assert (high - low) / 2 == pytest.approx(4.303 / math.sqrt(3))
    assert student([1.0]) is None


def test_coops_split_file_is_read_in_the_order_of_its_numbers(coop):
    train, test = read_coop(coop)
    assert train.classes == test.classes == ("lotus", "cup", "crab")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not set(train.items) & set(test.items)


def test_coops_test_split_stays_and_val_is_not_read(clip, coop):
    data = read_dataset(clip, coop)
    train, test = data.draw(2, 1)
    assert train.labels.bincount().tolist() == [2, 2, 2]
    assert len(test) == 6
    assert not keys(train) & keys(test)
    one, two = data.draw(2, 1)[1], data.draw(2, 2)[1]
    assert one is two


def test_coops_imagenet_is_read_without_a_split_file(tmp_path):
    (tmp_path / "classnames.txt").write_text("n02 great white shark\nn01 tench\n")
    for part in ("train", "val"):
        for number in ("n01", "n02"):
            (tmp_path / "images" / part / number).mkdir(parents=True)
            (tmp_path / "images" / part / number / f"{part}.jpg").touch()
    train, test = read_coop(tmp_path)
    assert train.classes == ("great white shark", "tench")
    assert test.labels.tolist() == [0, 1]
    assert [file.parent.name for file in train.items] == ["n02", "n01"]


def test_a_split_file_that_names_missing_pictures_is_an_error(coop):
    shutil.rmtree(coop / "jpg")
    with pytest.raises(BadDataset, match="in none of its folders"):
        read_coop(coop)


def test_the_papers_rows_give_its_mean():
    rows = [published for _, published in DATA_SETS.values()]
    assert sum(row.base for row in rows) / 11 == pytest.approx(MEANS["RMAdapter"][0], abs=0.01)
    assert sum(row.novel for row in rows) / 11 == pytest.approx(MEANS["RMAdapter"][1], abs=0.01)
