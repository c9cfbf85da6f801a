"""The figures that a tenant is shown."""

import pytest
import torch

from training.report import calibration_error, fit_logit_scale, report, wilson


@pytest.mark.parametrize(
    ("right", "n", "interval"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))],
)
def test_the_interval_is_wilsons(right: int, n: int, interval: tuple[float, float]) -> None:
    assert wilson(right, n) == pytest.approx(interval, abs=1e-4)


def test_confusion_precision_and_recall_count_what_was_called_what() -> None:
    cosines = torch.eye(3)[[0, 0, 1, 1, 1]]
    labels = torch.tensor([0, 1, 1, 1, 0])
    out = report(cosines, labels, ("a", "b", "c"), 10.0)
    assert out.confusion == ((1, 1, 0), (1, 2, 0), (0, 0, 0))
    assert out.accuracy == pytest.approx(0.6)
    a, b, c = out.classes
    assert (a.precision, a.recall, a.images) == (0.5, 0.5, 2)
    assert (b.precision, b.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (c.precision, c.recall, c.images) == (None, None, 0)


def test_calibration_error_is_the_gap_between_score_and_share_of_right_answers() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = torch.tensor([True, True, True, False, True, False])
    assert calibration_error(confidence, right) == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.05)


def test_the_temperature_is_the_one_the_labels_were_drawn_with() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(20_000, 5, generator=generator)
    labels = torch.multinomial((7.0 * cosines).softmax(1), 1, generator=generator).squeeze(1)
    assert fit_logit_scale(cosines, labels, 20.0) == pytest.approx(7.0, rel=0.06)


def test_the_suggested_min_score_keeps_nearly_all_right_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (1000,), generator=generator)
    cosines = torch.randn(1000, 4, generator=generator) * 0.3
    cosines[torch.arange(1000), labels] += 0.5
    out = report(cosines, labels, tuple("abcd"), 10.0)
    top, called = (out.logit_scale * cosines).softmax(1).max(1)
    kept = (top[called == labels] >= out.min_score).float().mean()
    assert kept == pytest.approx(0.95, abs=0.01)
