"""The arithmetic of a card counts what the towers really do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adapters.bank import Bank
from adapters.clip import FrozenCLIP, load_clip
from tests.benchmarks.roofline import H100, Kernel, estimate, kernels_of
from tests.support.fake_card import fake_card

ROWS = 4


@pytest.fixture(scope="module")
def counted() -> tuple[dict[int, list[Kernel]], dict[int, float]]:
    """Kernels of a batch by its number of adapters; pictures a second by the batch's size."""
    clip = load_clip()
    with fake_card():
        clip.move("cuda", "bf16")
        bank = Bank(clip.image, clip.text, 65, 32, 3, 2, clip.device, clip.dtype)
        kernels = {n: kernels_of(clip, bank, ROWS, n) for n in (0, 1, ROWS)}
        rates = {n: n / estimate(clip, bank, n, 1, H100).eager for n in (1, 8, 64)}
    return kernels, rates


def test_its_products_are_those_of_the_tower_on_the_cpu(counted: tuple, clip: FrozenCLIP) -> None:
    pixels = torch.zeros(ROWS, 3, clip.spec.size, clip.spec.size, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.image_upper(clip.image_lower(pixels, 3), 3)
    assert sum(k.flops for k in counted[0][0]) == counter.get_total_flops()


def test_adapters_add_their_products_and_one_in_each_row_reads_its_own(counted: tuple) -> None:
    kernels, _ = counted
    flops = {n: sum(k.flops for k in found) for n, found in kernels.items()}
    assert flops[0] < flops[1] == flops[ROWS]
    gathers = {n: sum(k.name == "index" for k in found) for n, found in kernels.items()}
    assert gathers[ROWS] == gathers[1] + 4 * 4  # four tensors in each of the blocks 3 to 6


def test_larger_batches_give_more_pictures_a_second(counted: tuple) -> None:
    _, rates = counted
    assert rates[1] < rates[8] < rates[64]


@pytest.mark.parametrize(
    ("kernel", "seconds"),
    [
        (Kernel("product", 10**12, 1), 10**12 / (989e12 * 0.6)),
        (Kernel("copy", 0, 3_350_000_000), 1e-3),
        (Kernel("small", 10, 10), 2e-6),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_kernel_takes_as_long_as_what_bounds_it(kernel: Kernel, seconds: float) -> None:
    assert kernel.seconds(H100) == pytest.approx(seconds)
