"""Labelled pictures from folders and zips."""

import shutil
from pathlib import Path

import pytest
import torch

from adapters.clip import FrozenCLIP
from adapters.errors import BadDataset
from service.demo.__main__ import PHOTOS
from training.data import Sample, few_shot, image_set, read_samples


def test_a_zip_and_its_folder_give_the_same_samples(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", PHOTOS)
    assert list(read_samples(Path(archive))) == list(read_samples(PHOTOS))


def test_a_file_that_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(BadDataset, match="neither a folder nor a zip"):
        list(read_samples(tmp_path / "x.zip"))


def test_a_broken_picture_is_named(clip: FrozenCLIP) -> None:
    with pytest.raises(BadDataset, match=r"cats/broken\.jpg: .*known format"):
        image_set([Sample("cats", "broken.jpg", b"x")], clip.spec)


def test_few_shot_draws_so_many_of_each_class_by_seed() -> None:
    labels = torch.arange(100) % 3
    drawn, rest = few_shot(labels, 16, seed=1)
    assert labels[drawn].bincount().tolist() == [16, 16, 16]
    assert sorted([*drawn.tolist(), *rest.tolist()]) == list(range(100))
    assert torch.equal(drawn, few_shot(labels, 16, seed=1)[0])
    assert not torch.equal(drawn, few_shot(labels, 16, seed=2)[0])
