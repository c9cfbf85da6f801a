"""Which backend and precision run a model on this machine: measured once, then kept in the cache.

A measurement is taken in turns until the difference is clear, because a machine that does other
things too is faster in one second than in the next.
"""

import hashlib
import json
import logging
import math
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch

from adapters.bank import Bank
from adapters.clip import FrozenCLIP, Precision
from adapters.errors import UnsupportedModel
from service.inference.backends import AGREE, REFERENCE, check_agreement, open_named, pictures
from service.inference.protocol import Backend
from service.settings import Settings
from training.fit import default_settings

log = logging.getLogger(__name__)

_FORMAT = 2  # counted up when an earlier choice should be measured anew
_MOST = 40  # rounds of a measurement
_SECONDS = 20.0  # and how long it may take; then the faster median is taken
_ROUNDS_COST = 1.2  # bf16 must be so many times as fast as float32: it rounds, and scores change
_CHANCE = 1e-3  # of a sign test, below which two are taken as different: ten of ten rounds
_SLOTS = 3  # of the bank in a measurement: the frozen CLIP's, and two that are mixed


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run."""

    backend: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} in {self.precision}"


def choose(
    settings: Settings, clip: FrozenCLIP, batch: int, backend: str | None = None
) -> tuple[Settings, FrozenCLIP]:
    """The settings with no `auto` left for the backend and the precision, and the CLIP in it.

    Args:
        settings: `backend`, `precision` and `cache_dir`.
        clip: the frozen CLIP, in float32 unless another precision is asked for.
        batch: pictures of a batch, as traffic will have them.
        backend: the only one there is, as in a worker; None: what the settings say.

    Raises:
        UnsupportedModel: what is asked for does not go together.
    """
    if backend is not None:
        kind = "fp32" if settings.precision == "int8" else settings.precision
        settings = settings.model_copy(update={"backend": backend, "precision": kind})
    if settings.precision == "int8":
        return _in_int8(settings, clip), clip
    ways = ways_of(settings, clip)
    way = ways[0] if len(ways) == 1 else _measured_once(settings, clip, ways, batch)
    log.info("%s is run by %s", clip.name, way)
    if clip.precision != way.precision:
        clip = clip.twin(way.precision)
    return settings.model_copy(update=asdict(way)), clip


def _in_int8(settings: Settings, clip: FrozenCLIP) -> Settings:
    """Eight bits are taken where they are asked for, and measured nowhere."""
    if settings.backend == "torch" or clip.device.type != "cpu":
        raise UnsupportedModel(
            f"RMADAPTER_PRECISION=int8 is ONNX Runtime's on a CPU; here the backend is"
            f" {settings.backend} and the device {clip.device}: set RMADAPTER_BACKEND=auto and"
            " RMADAPTER_DEVICE=cpu, or another precision"
        )
    return settings.model_copy(update={"backend": "onnx"})


def ways_of(settings: Settings, clip: FrozenCLIP) -> list[Way]:
    """What may run the model under these settings, the plainest first.

    On a card PyTorch runs it, in bf16: an export to ONNX is made only where it is asked for.
    """
    on_card, asked = clip.device.type == "cuda", settings.backend
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if has_bf16_units() else ("fp32",)
    if settings.precision in ("fp32", "bf16"):
        precisions = (settings.precision,)
    elif clip.precision == "bf16":  # float32 is gone
        precisions = ("bf16",)
    elif on_card:
        precisions = ("fp32",) if asked == "onnx" else ("bf16",)
    backends = (asked,) if asked != "auto" else (REFERENCE,) if on_card else (REFERENCE, "onnx")
    ways = [Way(name, kind) for kind in precisions for name in backends]
    ways = [way for way in ways if way != Way("onnx", "bf16")]
    if not ways:
        raise UnsupportedModel(
            "ONNX Runtime runs in float32: set RMADAPTER_PRECISION=fp32, or RMADAPTER_BACKEND=torch"
        )
    return ways


def has_bf16_units() -> bool:
    """Whether the CPU multiplies bf16 itself, by AMX or AVX-512; without, bf16 is slow."""
    cpu: Any = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def fastest(backends: Sequence[Backend], batch: int, costs: Sequence[float] = ()) -> int:
    """Which one takes the least time for a batch of pictures; the first, where none is faster.

    Args:
        backends: what is measured.
        batch: pictures of a batch.
        costs: what the time of each is multiplied by; nothing: 1 for each.

    All run in turns. One leaves when it was slower than the fastest in so many rounds that chance
    does not explain it. What is left at the end differs less than can be measured.
    """
    pixels, slots = pictures(backends[0], batch)
    left, seconds = list(range(len(backends))), [list[float]() for _ in backends]
    for backend in backends:  # warm
        backend.images(pixels, slots)
    end = monotonic() + _SECONDS
    for _ in range(_MOST):
        for i in left:
            start = perf_counter()
            backends[i].images(pixels, slots)
            seconds[i].append((perf_counter() - start) * (costs[i] if costs else 1.0))
        best = min(left, key=lambda i: statistics.median(seconds[i]))
        left = [i for i in left if i == best or not _slower(seconds[i], seconds[best])]
        if len(left) == 1 or monotonic() > end:
            break
    medians = ", ".join(f"{statistics.median(times):.4f}" for times in seconds)
    log.info("seconds a batch of %d pictures, of each in turn: %s", batch, medians)
    return left[0] if len(seconds[left[0]]) == _MOST else best


def _slower(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is slower than the other beyond chance, by a sign test of the rounds.

    A mean would not do: where a machine does other things, one round takes ten times as long.
    """
    rounds, lost = len(one), sum(a > b for a, b in zip(one, other, strict=True))
    ways = sum(math.comb(rounds, k) for k in range(lost, rounds + 1))
    return ways < _CHANCE * 2.0**rounds


def _measured_once(settings: Settings, clip: FrozenCLIP, ways: list[Way], batch: int) -> Way:
    key = _key(clip, ways, batch)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = settings.cache_dir / "choices" / f"{digest[:16]}.json"
    known = _read(file, key)
    if known in ways:
        return known
    way = _measure(settings, clip, ways, batch)
    _write(file, key, way)
    return way


def _key(clip: FrozenCLIP, ways: list[Way], batch: int) -> dict[str, Any]:
    """Everything that a measurement depends on."""
    return {
        "format": _FORMAT,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onnxruntime": _version("onnxruntime") or _version("onnxruntime-gpu"),
        "model": clip.fingerprint,
        "device": str(clip.device),
        "batch": batch,
        "ways": [str(way) for way in ways],
    }


def _measure(settings: Settings, clip: FrozenCLIP, ways: list[Way], batch: int) -> Way:
    """Opens each way on a bank of its own; what cannot run, or sees something else, is left out."""
    log.warning(
        "measuring once what runs %s fastest here: %s", clip.name, ", ".join(map(str, ways))
    )
    clips: dict[Precision, FrozenCLIP] = {clip.precision: clip}
    opened: dict[Way, Backend] = {}
    for way in ways:
        own = clips.get(way.precision) or clips.setdefault(way.precision, clip.twin(way.precision))
        try:
            backend = open_named(way.backend, settings, own, _small_bank(own))
            if opened:
                check_agreement(next(iter(opened.values())), backend, batch, AGREE[way.precision])
        except Exception as error:  # whatever an exporter or a runtime raises
            if not opened:
                raise
            log.warning("%s cannot run the model: %s", way, error)
            continue
        opened[way] = backend
    costs = [_ROUNDS_COST if way.precision == "bf16" else 1.0 for way in opened]
    return list(opened)[fastest(list(opened.values()), batch, costs)]


def _small_bank(clip: FrozenCLIP) -> Bank:
    place = default_settings(clip).adapter
    first = place.image_first, place.text_first
    return Bank(clip.image, clip.text, _SLOTS, place.rank, *first, clip.device, clip.dtype)


def _read(file: Path, key: Mapping[str, Any]) -> Way | None:
    try:
        kept = json.loads(file.read_text())
        return Way(**kept["way"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or not what was written
        return None


def _write(file: Path, key: Mapping[str, Any], way: Way) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as unfinished:
            json.dump({"key": key, "way": asdict(way)}, unfinished, indent=1)
        Path(unfinished.name).rename(file)
    except OSError as error:  # the next start measures again
        log.warning("the choice is not kept: %s", error)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor())}, {os.cpu_count()} CPUs"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
