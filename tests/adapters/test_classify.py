"""Class names become prompts; features become scores."""

import pytest
import torch

from adapters.classify import check_classes, check_template, prompts, scores
from adapters.errors import BadClasses


def test_folder_names_are_read_as_words() -> None:
    assert prompts(["wild_cat", " crab "]) == ["a photo of a wild cat.", "a photo of a crab."]


def test_names_with_braces_are_taken_as_they_are() -> None:
    assert prompts(["{0} {}"], "one {}!") == ["one {0} {}!"]


def test_scores_are_a_softmax_over_scaled_cosines() -> None:
    images = torch.eye(3)[:1]
    classes = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]])
    expected = torch.tensor([[10.0, 6.0]]).softmax(1)
    assert torch.allclose(scores(images, classes, 10.0), expected)


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        ([], "no class names"),
        (["a", " "], r"class names \[1\] \(from 0\) are empty"),
        (["a", "b", "a"], "given twice: 'a'"),
        (["a", "b", "c", "d"], "4 class names, more than the 3 allowed"),
    ],
)
def test_unusable_names_are_named(classes: list[str], reason: str) -> None:
    with pytest.raises(BadClasses, match=reason):
        check_classes(classes, 3)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    with pytest.raises(BadClasses, match="exactly one"):
        check_template(template)
