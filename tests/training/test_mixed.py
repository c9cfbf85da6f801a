"""The choice of the numbers for mixed lists, on features made for it."""

import pytest
import torch
from torch.nn import functional as F

from training.protocols.mixed import GRID, Cell, Frozen, cells, choose, mean_figure


@pytest.fixture(scope="module")
def data() -> Frozen:
    """Ten classes of eight photos, whose names know them fairly well."""
    generator = torch.Generator().manual_seed(1)
    centres = F.normalize(torch.randn(10, 32, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.arange(10).repeat_interleave(8)
    noise = torch.randn(80, 32, generator=generator, dtype=torch.float64)
    images = F.normalize(centres[labels] + 0.12 * noise, dim=1)
    return Frozen("made", images, labels, centres, 60.0)


def test_each_number_of_joined_names_that_the_classes_allow_is_judged(data: Frozen) -> None:
    found = list(cells(data, shots=2, seed=1, rhos=(0.1, 0.5)))
    assert [(cell.rho, cell.names) for cell in found] == [
        (rho, names) for rho in (0.1, 0.5) for names in (1, 3, 5)
    ]


def test_an_offset_that_lets_one_kind_of_name_win_is_worse_than_one_between(data: Frozen) -> None:
    for cell in cells(data, shots=4, seed=1, rhos=(0.5,)):
        assert max(cell.figure(-1.0), cell.figure(1.0)) < float(cell.harmonic.max()) - 0.3


def made(data: str, shots: int, best: float | None, peak: float) -> Cell:
    """A cell whose figure falls off from its best offset."""
    return Cell(data, shots, 1, 0.5, best, 1 - (GRID - peak).abs())


def test_below_the_first_number_of_photos_the_default_is_taken() -> None:
    cell = made("tiny_imagenet", shots=2, best=0.4, peak=0.1)
    assert cell.chosen(default=0.1, first=3) == pytest.approx(1.0)
    assert cell.chosen(default=0.1, first=2) == pytest.approx(0.7)
    assert made("tiny_imagenet", 8, None, 0.1).chosen(default=0.1, first=2) == pytest.approx(1.0)


def test_the_domains_of_pacs_count_as_one_data_set() -> None:
    found = [made(f"pacs_{name}", 1, None, 0.5) for name in ("photo", "sketch")]
    found.append(made("tiny_imagenet", 1, None, 0.0))
    assert mean_figure(found, default=0.0, first=2) == pytest.approx((0.5 + 1.0) / 2)


def test_the_setting_with_the_largest_mean_is_chosen() -> None:
    found = [made("tiny_imagenet", shots, 0.9, 0.2) for shots in (1, 2)]
    found += [made("tiny_imagenet", 4, 0.3, 0.3)]
    assert choose([*found]) == pytest.approx((0.5, 0.2, 3))
