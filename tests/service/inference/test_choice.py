"""Which backend and precision run a model: what is asked for, or the fastest, measured once."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from service.inference import choice, onnx_backend
from service.inference.choice import Way, choose, fastest, ways_of
from service.settings import Settings

TORCH, HALF, ONNX = Way("torch", "fp32"), Way("torch", "bf16"), Way("onnx", "fp32")


def on(device: str, precision: str = "fp32") -> SimpleNamespace:
    """What `ways_of` reads of a CLIP."""
    return SimpleNamespace(device=torch.device(device), precision=precision)


@pytest.mark.parametrize(
    ("device", "units", "asked", "expected"),
    [
        ("cpu", False, {}, [TORCH, ONNX]),
        ("cpu", True, {}, [TORCH, ONNX, HALF]),
        ("cpu", True, {"backend": "torch"}, [TORCH, HALF]),
        ("cpu", True, {"backend": "onnx"}, [ONNX]),
        ("cpu", False, {"precision": "bf16"}, [HALF]),
        ("cpu", True, {"precision": "fp32"}, [TORCH, ONNX]),
        ("cuda", True, {}, [HALF]),
        ("cuda", False, {"precision": "fp32"}, [TORCH]),
        ("cuda", False, {"backend": "onnx"}, [ONNX]),
    ],
)
def test_only_what_may_be_fastest_is_measured(
    monkeypatch: pytest.MonkeyPatch, device: str, units: bool, asked: dict, expected: list[Way]
) -> None:
    monkeypatch.setattr(choice, "has_bf16_units", lambda: units)
    plain = {"backend": "auto", "precision": "auto"}
    assert ways_of(Settings(**(plain | asked)), on(device)) == expected


def test_onnx_runtime_in_bf16_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="RMADAPTER_PRECISION=fp32"):
        ways_of(Settings(backend="onnx", precision="bf16"), on("cpu"))


class Timed:
    """A call takes so many seconds of a clock that nothing else moves, and now and then ten times
    as many."""

    picture_size = 8

    def __init__(self, name: str, seconds: float, noise: float = 0.0, seed: int = 0) -> None:
        self.name, self.seconds, self.calls = name, seconds, 0
        generator = np.random.default_rng(seed)
        self._more = noise * generator.random(100) + 9 * seconds * (generator.random(100) < 0.1)

    def images(self, pixels, slots):
        Timed.now += self.seconds + self._more[self.calls]
        self.calls += 1


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    Timed.now = 0.0
    if "earnest" not in request.node.name:
        monkeypatch.setattr(choice, "perf_counter", lambda: Timed.now)
        monkeypatch.setattr(choice, "monotonic", lambda: Timed.now)


@pytest.mark.parametrize("seed", range(20))
def test_the_fastest_is_found_and_a_slow_one_leaves_early(seed: int) -> None:
    backends = [
        Timed("plain", 0.06, 0.01, seed),
        Timed("fast", 0.02, 0.01, seed + 100),
        Timed("slow", 0.1, 0.01, seed + 200),
    ]
    assert fastest(backends, 2) == 1
    assert 11 <= backends[2].calls <= 35


@pytest.mark.parametrize("seed", range(20))
def test_a_difference_under_as_much_noise_takes_more_rounds(seed: int) -> None:
    backends = [Timed("plain", 0.03, 0.02, seed), Timed("fast", 0.02, 0.02, seed + 100)]
    assert fastest(backends, 2) == 1


def test_of_two_that_are_equal_the_first_is_taken() -> None:
    backends = [Timed("plain", 0.02), Timed("other", 0.02)]
    assert fastest(backends, 2) == 0
    assert backends[0].calls == 41


@pytest.mark.parametrize(("seconds", "best"), [(0.02, 0), (0.01, 1)])
def test_one_that_costs_more_must_be_faster_by_that(seconds: float, best: int) -> None:
    backends = [Timed("plain", 0.022), Timed("rounds", seconds)]
    assert fastest(backends, 2, [1.0, 1.2]) == best


def test_a_slow_machine_measures_for_twenty_seconds_alone() -> None:
    backends = [Timed("plain", 8.0), Timed("fast", 4.0)]
    assert fastest(backends, 2) == 1
    assert backends[0].calls <= 4


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The measurements that are taken; the last of what is measured wins."""
    taken: list[list[str]] = []

    def last(backends, batch, costs):
        taken.append([backend.name for backend in backends])
        return len(backends) - 1

    monkeypatch.setattr(choice, "fastest", last)
    monkeypatch.setattr(choice, "has_bf16_units", lambda: True)
    return taken


def test_a_choice_is_kept_for_the_next_start_and_made_anew_for_another_model(
    clip: FrozenCLIP, tmp_path: Path, rounds: list
) -> None:
    settings = Settings(backend="torch", precision="auto", cache_dir=tmp_path)
    for _ in range(2):
        decided, half = choose(settings, clip, 2)
        assert (decided.backend, decided.precision, half.precision) == ("torch", "bf16", "bf16")
        assert (half.fingerprint, clip.precision) == (clip.fingerprint, "fp32")
    assert rounds == [["torch", "torch"]]
    other = clip.twin("fp32")
    other.fingerprint = "another"
    choose(settings, other, 2)
    choose(settings, clip, 4)  # another size of batches
    assert len(rounds) == 3


@pytest.mark.parametrize("content", ["", "{}", '{"key": 1, "way": 2}', "[]"])
def test_a_damaged_file_is_measured_anew(
    clip: FrozenCLIP, tmp_path: Path, rounds: list, content: str
) -> None:
    settings = Settings(backend="torch", precision="auto", cache_dir=tmp_path)
    choose(settings, clip, 2)
    (file,) = (tmp_path / "choices").iterdir()
    assert json.loads(file.read_text())["way"] == {"backend": "torch", "precision": "bf16"}
    file.write_text(content)
    choose(settings, clip, 2)
    assert len(rounds) == 2


def test_a_cache_that_cannot_be_written_costs_a_measurement_alone(
    clip: FrozenCLIP, tmp_path: Path, rounds: list, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "choices").write_text("a file in its way")
    settings = Settings(backend="torch", precision="auto", cache_dir=tmp_path)
    assert choose(settings, clip, 2)[0].precision == "bf16"
    assert "not kept" in caplog.text


def test_what_cannot_run_or_sees_something_else_is_left_out(
    clip: FrozenCLIP,
    tmp_path: Path,
    rounds: list,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_backend, "exported", refuse)
    monkeypatch.setattr(choice, "AGREE", {"fp32": 1e-3, "bf16": 1e-9})
    settings = Settings(backend="auto", precision="auto", cache_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        decided, same = choose(settings, clip, 2)
    assert (decided.backend, decided.precision, same) == ("torch", "fp32", clip)
    assert "no such operator" in caplog.text
    assert "differ from torch's" in caplog.text
    assert rounds == [["torch"]]


def test_a_worker_chooses_among_pytorchs_precisions_alone(
    clip: FrozenCLIP, tmp_path: Path, rounds: list
) -> None:
    settings = Settings(backend="auto", precision="auto", cache_dir=tmp_path)
    assert choose(settings, clip, 2, backend="torch")[1].precision == "bf16"
    assert rounds == [["torch", "torch"]]
    eight = settings.model_copy(update={"precision": "int8"})
    assert choose(eight, clip, 2, backend="torch")[1] is clip


def test_a_start_measures_in_earnest(clip: FrozenCLIP, tmp_path: Path) -> None:
    settings = Settings(backend="torch", precision="auto", cache_dir=tmp_path)
    decided, placed = choose(settings, clip, 1)
    assert decided.precision == placed.precision in ("fp32", "bf16")
    assert replace(TORCH, precision=placed.precision) in ways_of(settings, clip)
