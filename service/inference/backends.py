"""The backends by name, and whether one sees what PyTorch sees."""

from collections.abc import Callable

import numpy as np

from adapters.bank import Bank
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from adapters.pixels import Pixels
from service.inference.protocol import Backend
from service.inference.torch_backend import TorchBackend
from service.settings import Settings

# A larger difference of features than rounding makes, to float32; TF32 on a GPU is below the first.
AGREE = {"fp32": 1e-3, "bf16": 0.02, "int8": 0.05}


def _open_torch(settings: Settings, clip: FrozenCLIP, bank: Bank) -> Backend:
    return TorchBackend(clip, bank, settings.lower_prompts)


def _open_onnx(settings: Settings, clip: FrozenCLIP, bank: Bank) -> Backend:
    from service.inference.onnx_backend import OnnxBackend  # ONNX Runtime loads where it is used

    int8 = settings.precision == "int8"
    return OnnxBackend(clip, bank, settings.cache_dir, settings.lower_prompts, int8)


REFERENCE = "torch"  # every other backend must agree with it
BACKENDS: dict[str, Callable[[Settings, FrozenCLIP, Bank], Backend]] = {
    REFERENCE: _open_torch,
    "onnx": _open_onnx,
}


def open_named(name: str, settings: Settings, clip: FrozenCLIP, bank: Bank) -> Backend:
    """Opens a backend of the table."""
    return BACKENDS[name](settings, clip, bank)


def open_backend(settings: Settings, clip: FrozenCLIP, bank: Bank, batch: int) -> Backend:
    """Opens the backend that the settings name, if its features are PyTorch's.

    Args:
        settings: `backend` and `precision`, neither of them `auto`, and the caches' sizes.
        clip: the frozen CLIP.
        bank: the adapters that are loaded.
        batch: rows of a batch, as traffic will have them.

    Raises:
        UnsupportedModel: the backend that is asked for cannot run this model.
    """
    plain = open_named(REFERENCE, settings, clip, bank)
    name = settings.backend
    if name == REFERENCE:
        return plain
    try:
        other = open_named(name, settings, clip, bank)
        check_agreement(plain, other, batch, AGREE[settings.precision])
    except Exception as error:  # whatever an exporter or a runtime raises
        title = {"onnx": "ONNX Runtime"}.get(name, name)
        raise UnsupportedModel(f"{title} cannot run {clip.name}: {error}") from error
    return other


def check_agreement(plain: Backend, other: Backend, batch: int, most: float) -> None:
    """Raises RuntimeError where another backend's features differ by more than `most`."""
    pixels, slots = pictures(plain, batch)
    difference = float(np.abs(plain.images(pixels, slots) - other.images(pixels, slots)).max())
    if difference > most:
        raise RuntimeError(f"its features differ from torch's by {difference:.1e}")


def pictures(backend: Backend, batch: int) -> tuple[list[Pixels], list[int]]:
    """Noise of a batch's size, on two slots in turn, as traffic is."""
    size = backend.picture_size
    generator = np.random.default_rng(0)
    pixels = list(generator.integers(0, 255, (batch, 3, size, size), dtype=np.uint8))
    return pixels, [i % 2 for i in range(batch)]
