"""The head against a plain reference in NumPy, written from its equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adapters.evidence import (
    GAMMA,
    LAMBDA,
    NO_PHOTOS,
    RHO,
    TAU,
    choose_offset,
    fit_evidence,
    judge,
    left_out,
    probabilities,
    values,
)

Matrix = NDArray[np.float64]
LOGIT_SCALE, WIDTH = 60.0, 48


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def some(classes: int, shots: int, noise: float = 0.6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(photos, labels, names' features, two new photos of each class): names that know a little."""
    centres = unit(classes, WIDTH)
    labels = torch.arange(classes).repeat_interleave(shots)
    photos = F.normalize(centres[labels] + noise * unit(len(labels), WIDTH, seed=1), dim=1)
    text = F.normalize(centres + 4 * unit(classes, WIDTH, seed=2), dim=1)
    others = F.normalize(centres.repeat(2, 1) + noise * unit(2 * classes, WIDTH, seed=3), dim=1)
    return photos, labels, text, others


def numpy_softmax(x: Matrix) -> Matrix:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference(photos: Tensor, labels: Tensor, text: Tensor, images: Tensor) -> Matrix:
    """f(x) = p0(x) + k(x, X) (K + λI)⁻¹ (Y − p0(X))."""
    x, w, new = (t.double().numpy() for t in (photos, text, images))
    prior = numpy_softmax(TAU * LOGIT_SCALE * x @ w.T)
    kernel = np.exp(-GAMMA * (1 - x @ x.T))
    wrong = np.eye(len(w))[labels.numpy()] - prior
    a = np.linalg.solve(kernel + LAMBDA * np.eye(len(x)), wrong)
    first = numpy_softmax(TAU * LOGIT_SCALE * new @ w.T)
    return first + np.exp(-GAMMA * (1 - new @ x.T)) @ a


@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (2, 16), (20, 1), (20, 5), (1000, 1)])
def test_the_head_is_kernel_ridge_around_zero_shot(classes: int, shots: int) -> None:
    photos, labels, text, images = some(classes, shots)
    found = judge(fit_evidence(photos, labels, text, LOGIT_SCALE).float(), images).numpy()
    expected = reference(photos, labels, text, images)
    assert np.abs(found - expected).max() < 0.01  # the photos are kept in float16
    clear = np.diff(np.sort(expected, 1)[:, -2:], axis=1)[:, 0] > 0.01
    assert (found.argmax(1) == expected.argmax(1))[clear].all()
    assert clear.mean() > 0.7


def test_photos_that_are_all_alike_are_taken() -> None:
    photos, labels, text, images = some(4, 6)
    photos[labels == 1] = photos[labels == 1][:1]
    found = judge(fit_evidence(photos, labels, text, LOGIT_SCALE), images.double())
    assert np.abs(found.numpy() - reference(photos, labels, text, images)).max() < 0.01
    one_photo = photos[:1].expand_as(photos)
    assert judge(fit_evidence(one_photo, labels, text, LOGIT_SCALE), images).isfinite().all()


def test_the_head_finds_what_the_names_alone_do_not() -> None:
    photos, labels, text, images = some(20, 8)
    true = torch.arange(20).repeat(2)
    named = ((images @ text.T).argmax(1) == true).float().mean()
    found = judge(fit_evidence(photos, labels, text, LOGIT_SCALE).float(), images)
    assert (found.argmax(1) == true).float().mean() > named + 0.2


@pytest.mark.parametrize("shots", [1, 4])
def test_left_out_is_what_the_head_of_all_other_photos_says(shots: int) -> None:
    photos, labels, text, _ = some(5, shots)
    found = left_out(photos, labels, text, LOGIT_SCALE).numpy()
    for i in range(len(photos)):
        rest = torch.arange(len(photos)) != i
        expected = reference(photos[rest], labels[rest], text, photos[i : i + 1])
        assert np.abs(found[i] - expected[0]).max() < 1e-9


def test_left_out_is_exact_with_landmarks_too() -> None:
    """Ridge on M fixed landmarks: solved anew without each of some photos."""
    photos, labels, text, _ = some(6, 10)
    most = 24
    head = fit_evidence(photos, labels, text, LOGIT_SCALE, most)
    found = left_out(photos.half(), labels, text.half(), LOGIT_SCALE, most).numpy()
    x, w, marks = (t.double().numpy() for t in (photos.half(), text.half(), head.photos))
    assert len(marks) == most
    cross, among = (np.exp(-GAMMA * (1 - rows @ marks.T)) for rows in (x, marks))
    prior = numpy_softmax(TAU * LOGIT_SCALE * x @ w.T)
    wrong = np.eye(6)[labels.numpy()] - prior
    for i in range(0, len(x), 7):
        rest = np.arange(len(x)) != i
        normal = cross[rest].T @ cross[rest] + LAMBDA * among
        a = np.linalg.solve(normal, cross[rest].T @ wrong[rest])
        assert np.abs(found[i] - (prior[i] + cross[i] @ a)).max() < 1e-5


def test_landmarks_are_spread_over_the_classes_and_answer_as_all_photos_do() -> None:
    photos, labels, text, images = some(10, 40)
    every = judge(fit_evidence(photos, labels, text, LOGIT_SCALE).float(), images)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE, most=100)
    assert len(head.photos) == len(head.coefficients) == 100
    at = (head.photos[:, None] == photos.half()).all(2).float().argmax(1)
    assert labels[at].bincount().tolist() == [10] * 10
    agree = judge(head.float(), images).argmax(1) == every.argmax(1)
    assert agree.float().mean() > 0.9


def test_more_photos_than_the_limit_are_stored_as_landmarks() -> None:
    photos, labels, text, images = some(3, 1400)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE)
    assert len(head.photos) == 4000
    assert judge(head, images).isfinite().all()


def test_a_mixed_list_judges_names_with_photos_by_them_and_the_others_by_name() -> None:
    photos, labels, text, images = some(8, 4)
    head = fit_evidence(photos[:20], labels[:20], text[:5], LOGIT_SCALE)
    asked = torch.tensor([6, 3, 7, 0])  # names 6 and 7 have no photos
    columns = torch.tensor([NO_PHOTOS, 3, NO_PHOTOS, 0])
    found = values(head, images.double(), text[asked].double(), columns)
    expected = reference(photos[:20], labels[:20], text[:5], images)
    new, w = images.double().numpy(), text.double().numpy()
    others, asked_too = (np.exp(TAU * LOGIT_SCALE * new @ w[i].T) for i in (range(5), [6, 7]))
    weight = asked_too.sum(1, keepdims=True) + RHO * others.sum(1, keepdims=True)
    outside = asked_too / weight + head.offset
    assert np.abs(found.numpy()[:, [1, 3]] - expected[:, [3, 0]]).max() < 0.01
    assert np.abs(found.numpy()[:, [0, 2]] - outside).max() < 0.002


def test_one_new_name_in_a_list_does_not_take_the_photos_of_the_others() -> None:
    photos, labels, text, images = some(12, 6)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE).float()
    asked = torch.cat([text, unit(1, WIDTH, seed=9)])
    columns = torch.cat([torch.arange(12), torch.tensor([NO_PHOTOS])])
    called = values(head, images, asked, columns).argmax(1)
    assert (called == torch.arange(12).repeat(2)).float().mean() > 0.7


@pytest.mark.parametrize("columns", [[0, 1, 2], [2, -1, -1, 0], [-1, -1], [1], [-1]])
def test_scores_sum_to_one_over_the_asked_names(columns: list[int]) -> None:
    photos, labels, text, images = some(3, 2)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE)
    asked = unit(len(columns), WIDTH, seed=9)
    found = probabilities(head, images, asked, torch.tensor(columns), 20.0)
    assert found.shape == (len(images), len(columns))
    assert torch.allclose(found.sum(1), torch.ones(len(images)))
    assert (found >= 0).all()


def test_a_list_without_photos_is_answered_by_its_names_alone() -> None:
    photos, labels, text, images = some(3, 2)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE)
    asked = unit(4, WIDTH, seed=9)
    found = probabilities(head, images, asked, torch.full((4,), NO_PHOTOS), 20.0)
    assert torch.equal(found, F.softmax(20.0 * images @ asked.T, dim=1))


def test_the_order_of_the_names_and_the_batch_change_no_score() -> None:
    photos, labels, text, images = some(4, 2)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE).float()
    asked, columns = torch.cat([text, unit(2, WIDTH)]), torch.tensor([0, 1, 2, 3, -1, -1])
    whole = probabilities(head, images, asked, columns, 20.0)
    order = torch.tensor([5, 2, 0, 4, 3, 1])
    for i in range(len(images)):
        one = probabilities(head, images[i : i + 1], asked[order], columns[order], 20.0)
        assert torch.allclose(one[0], whole[i, order], atol=1e-5)


def test_half_precision_changes_no_answer() -> None:
    photos, labels, text, images = some(30, 8)
    head = fit_evidence(photos, labels, text, LOGIT_SCALE)
    assert head.photos.dtype == head.coefficients.dtype == head.text.dtype == torch.float16
    exact = reference(photos, labels, text, images).argmax(1)
    assert (judge(head.float(), images).argmax(1).numpy() == exact).all()


def test_the_offset_finds_both_kinds_of_names() -> None:
    photos, labels, text, images = some(24, 6, noise=1.0)
    seen = labels < 16
    chosen = choose_offset(photos[seen], labels[seen], text[:16], LOGIT_SCALE, seed=1)
    assert chosen is not None
    head = fit_evidence(photos[seen], labels[seen], text[:16], LOGIT_SCALE).float()
    columns = torch.cat([torch.arange(16), torch.full((8,), NO_PHOTOS)])
    true = torch.arange(24).repeat(2)

    def both(offset: float) -> float:
        called = values(replace(head, offset=offset), images, text, columns).argmax(1)
        right = called == true
        old, new = right[true < 16].float().mean(), right[true >= 16].float().mean()
        return float(2 * old * new / (old + new + 1e-9))

    assert both(chosen) >= max(both(-0.9), both(0.9)) + 0.1


@pytest.mark.parametrize(("classes", "shots"), [(12, 1), (12, 2), (3, 8)])
def test_with_few_photos_or_classes_no_offset_is_chosen(classes: int, shots: int) -> None:
    photos, labels, text, _ = some(classes, shots)
    assert choose_offset(photos, labels, text, LOGIT_SCALE, seed=1) is None
