"""The module and its losses against the paper's equations, written out anew in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters.config import AdapterConfig, LossWeights, TowerShape
from adapters.rmadapter import (
    CLIPAdapters,
    Reconstruction,
    RMAdapter,
    TowerAdapters,
    TowerOutput,
    consistency_error,
    reconstruction_error,
    total_loss,
)

WIDTH, RANK = 64, 8
CONFIG = AdapterConfig(image_first=3, text_first=2, rank=RANK, alpha=0.5)
VIT_B_16 = (TowerShape(768, 12), TowerShape(512, 12))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def linear(x: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    return x @ weight.T + bias


def close(ours: torch.Tensor, exact: np.ndarray) -> None:
    error = np.abs(ours.detach().double().numpy() - exact).max() / np.abs(exact).max()
    assert error < 1e-5


@pytest.fixture
def adapter() -> RMAdapter:
    torch.manual_seed(0)
    module = RMAdapter(WIDTH, CONFIG)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def test_the_adaptation_branch_is_equations_8_and_9(adapter: RMAdapter, x: torch.Tensor) -> None:
    exact = linear(gelu(linear(x.double().numpy(), adapter.down)), adapter.up)
    close(adapter(x), exact)


def test_the_reconstruction_branch_is_equations_8_and_10(
    adapter: RMAdapter, x: torch.Tensor
) -> None:
    h = gelu(linear(x.double().numpy(), adapter.down))
    exact = linear(gelu(linear(h, adapter.rec_hidden[0])), adapter.rec_up)
    close(adapter.reconstruct(x), exact)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_ablations_layers_are_so_many_linear_layers(layers: int) -> None:
    module = RMAdapter(WIDTH, replace(CONFIG, reconstruction_layers=layers))
    assert len(module.rec_hidden) + 1 == layers


def test_an_independent_down_projection_leaves_the_other_branch_alone(x: torch.Tensor) -> None:
    module = RMAdapter(WIDTH, replace(CONFIG, shared_down=False))
    reconstruction_error(module, x).backward()
    assert module.down.weight.grad is None
    assert module.rec_down is not None and module.rec_down.weight.grad is not None


def test_the_adapter_reads_the_blocks_input_and_is_scaled_by_alpha(x: torch.Tensor) -> None:
    tower = TowerAdapters(TowerShape(WIDTH, 4), 3, CONFIG)
    torch.nn.init.normal_(tower.at(3).up.weight)
    assert tower.delta(2, x) is None
    assert torch.equal(tower.delta(3, x), CONFIG.alpha * tower.at(3)(x))


def test_a_new_adapter_adds_exactly_nothing(x: torch.Tensor) -> None:
    assert torch.equal(RMAdapter(WIDTH, CONFIG)(x), torch.zeros_like(x))


def test_the_reconstruction_error_is_relative_and_masks_padding(
    adapter: RMAdapter, x: torch.Tensor
) -> None:
    z = x.double().numpy()
    h = gelu(linear(z, adapter.down))
    rec = linear(gelu(linear(h, adapter.rec_hidden[0])), adapter.rec_up)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=bool)
    exact = ((z - rec) ** 2)[mask].sum() / (z**2)[mask].sum()
    ours = reconstruction_error(adapter, x, torch.from_numpy(mask))
    assert ours.item() == pytest.approx(exact, rel=1e-5)


def test_the_reconstruction_loss_reaches_no_other_layer() -> None:
    """Block 4's input depends on block 3's adapter; the gradient must stop between them."""
    tower = TowerAdapters(TowerShape(WIDTH, 4), 3, CONFIG)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    trace = Reconstruction(tower)
    middle = x + trace(3, x)
    trace.error = 0.0
    trace(4, middle)
    trace.error.backward()
    reached = {name for name, p in tower.named_parameters() if p.grad is not None}
    layer = {"down.weight", "down.bias", "rec_hidden.0.weight", "rec_hidden.0.bias"}
    assert reached == {f"blocks.1.{name}" for name in layer | {"rec_up.weight", "rec_up.bias"}}
    assert x.grad is None


def test_the_reconstruction_error_sums_over_blocks(x: torch.Tensor) -> None:
    tower = TowerAdapters(TowerShape(WIDTH, 4), 3, CONFIG)
    trace = Reconstruction(tower)
    trace(2, x)
    trace(3, x)
    trace(4, x)
    each = [reconstruction_error(tower.at(block), x) for block in (3, 4)]
    assert torch.equal(trace.error, each[0] + each[1])


def test_the_total_loss_is_equations_16_to_18() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 3, generator=generator)
    xa, xf, wa, wf = torch.randn(4, 6, 10, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = LossWeights(0.1, 0.2, 0.3, 0.4)
    ours = total_loss(logits, labels, weights, TowerOutput(xa, xf, 5.0), TowerOutput(wa, wf, 7.0))
    lg = logits.double().numpy()
    ce = np.mean(np.log(np.exp(lg).sum(1)) - lg[np.arange(6), labels])
    l1 = [
        np.abs(a.double().numpy() - f.double().numpy()).sum(1).mean()
        for a, f in ((xa, xf), (wa, wf))
    ]
    exact = ce + 0.3 * l1[0] + 0.4 * l1[1] + 0.1 * 5.0 + 0.2 * 7.0
    assert ours.item() == pytest.approx(exact, rel=1e-5)


def test_equal_features_are_consistent() -> None:
    features = torch.randn(4, 10)
    assert consistency_error(features, features).item() == 0


def test_vit_b_16_has_the_papers_parameters() -> None:
    """ "About 320K" in the reconstruction branch at r = 32, k = 5 (method: 327,680 for W_rec2)."""
    config = AdapterConfig(image_first=5, text_first=5, rank=32)
    adapters = CLIPAdapters(*VIT_B_16, config)
    count = {name: p.numel() for name, p in adapters.named_parameters()}
    assert sum(n for name, n in count.items() if "rec_up.weight" in name) == 327_680
    assert sum(n for name, n in count.items() if ".rec_" in name) == 354_816
    assert sum(n for name, n in count.items() if ".rec_" not in name) == 8 * (
        2 * 32 * (768 + 512) + 2 * 32 + 768 + 512
    )
