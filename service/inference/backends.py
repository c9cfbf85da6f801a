"""The backends by name, and which one runs the model: the one asked for, or the fastest."""

import logging
import statistics
import time
from collections.abc import Callable

import numpy as np

from adapters.bank import Bank
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from service.inference.protocol import Backend
from service.inference.torch_backend import TorchBackend
from service.settings import Settings

log = logging.getLogger(__name__)

_ROUNDS = 3
_AGREE = 1e-3  # a larger difference of features than rounding makes; TF32 on a GPU is below it
_AGREE_INT8 = 0.05  # the same for eight bits


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


def open_backend(settings: Settings, clip: FrozenCLIP, bank: Bank, batch: int) -> Backend:
    """Opens the backend that the settings ask for, else the fastest that agrees with PyTorch.

    Args:
        settings: `backend`, `precision` and the caches' sizes.
        clip: the frozen CLIP.
        bank: the adapters that are loaded.
        batch: rows of a batch, as traffic will have them.

    Raises:
        UnsupportedModel: the backend or precision that is asked for cannot run this model.
    """
    asked = "onnx" if settings.precision == "int8" else settings.backend
    if settings.precision == "int8" and (settings.backend == "torch" or clip.device.type != "cpu"):
        raise UnsupportedModel(
            f"RMADAPTER_PRECISION=int8 is ONNX Runtime's on a CPU; here the backend is"
            f" {settings.backend} and the device {clip.device}: set RMADAPTER_BACKEND=auto and"
            " RMADAPTER_DEVICE=cpu, or another precision"
        )
    best = plain = BACKENDS[REFERENCE](settings, clip, bank)
    if asked == REFERENCE:
        return plain
    for name in BACKENDS if asked == "auto" else (asked,):
        if name == REFERENCE:
            continue
        try:
            other = BACKENDS[name](settings, clip, bank)
            _check_agreement(plain, other, batch, settings)
        except Exception as error:  # whatever an exporter or a runtime raises
            if name == asked:
                raise UnsupportedModel(f"{_title(name)} cannot run {clip.name}: {error}") from error
            log.warning("torch runs the model; %s cannot: %s", _title(name), error)
            continue
        if name == asked:
            return other
        best = faster(best, other, batch)
    return best


def _title(name: str) -> str:
    return {"onnx": "ONNX Runtime"}.get(name, name)


def _check_agreement(plain: Backend, other: Backend, batch: int, settings: Settings) -> None:
    difference = _difference(plain, other, batch)
    if difference > (_AGREE_INT8 if settings.precision == "int8" else _AGREE):
        raise RuntimeError(f"its features differ from torch's by {difference:.1e}")


def faster(one: Backend, other: Backend, batch: int) -> Backend:
    """The one whose batches of pictures take less time, in turns."""
    pixels, slots = _batch(one, batch)
    seconds: dict[str, list[float]] = {one.name: [], other.name: []}
    for _ in range(_ROUNDS):
        for backend in (one, other):
            start = time.perf_counter()
            backend.images(pixels, slots)
            seconds[backend.name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    log.info("seconds a batch of %d pictures: %s", batch, median)
    return min((one, other), key=lambda backend: median[backend.name])


def _difference(one: Backend, other: Backend, batch: int) -> float:
    pixels, slots = _batch(one, batch)
    return float(np.abs(one.images(pixels, slots) - other.images(pixels, slots)).max())


def _batch(backend: Backend, batch: int) -> tuple[list[np.ndarray], list[int]]:
    size = backend.picture_size
    generator = np.random.default_rng(0)
    pixels = list(generator.integers(0, 255, (batch, 3, size, size), dtype=np.uint8))
    return pixels, [i % 2 for i in range(batch)]  # of two slots, as traffic is
