"""Which backend runs the model: the one asked for, or the one that a short race finds faster."""

import logging
import statistics
import time

import numpy as np

from adapters.bank import Bank
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from service.backends import Backend, TorchBackend
from service.settings import Settings

log = logging.getLogger(__name__)

_ROUNDS = 3
_AGREE = 1e-3  # a larger difference of features than rounding makes; TF32 on a GPU is below it
_AGREE_INT8 = 0.05  # the same for eight bits


def open_backend(settings: Settings, clip: FrozenCLIP, bank: Bank, batch: int) -> Backend:
    """Raises UnsupportedModel when ONNX Runtime or int8 is asked for and cannot run this model."""
    plain = TorchBackend(clip, bank, settings.lower_prompts)
    int8 = settings.precision == "int8"
    asked = int8 or settings.backend == "onnx"
    if int8 and (settings.backend == "torch" or clip.device.type != "cpu"):
        raise UnsupportedModel(
            f"RMADAPTER_PRECISION=int8 is ONNX Runtime's on a CPU; here the backend is"
            f" {settings.backend} and the device {clip.device}: set RMADAPTER_BACKEND=auto and"
            " RMADAPTER_DEVICE=cpu, or another precision"
        )
    if settings.backend == "torch":
        return plain
    try:
        from service.onnx_backend import OnnxBackend

        other = OnnxBackend(clip, bank, settings.cache_dir, settings.lower_prompts, int8)
        difference = _difference(plain, other, batch)
        if difference > (_AGREE_INT8 if int8 else _AGREE):
            raise RuntimeError(f"its features differ from torch's by {difference:.1e}")
    except Exception as error:  # whatever the exporter or ONNX Runtime raises
        if asked:
            raise UnsupportedModel(f"ONNX Runtime cannot run {clip.name}: {error}") from error
        log.warning("torch runs the model; ONNX Runtime cannot: %s", error)
        return plain
    return other if asked else faster(plain, other, batch)


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
