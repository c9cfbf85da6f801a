"""Which fits a protocol compares: methods by name, or the rows of the paper's ablations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from training.fit import FitSettings, default_settings
from training.peers import METHODS, fit_method, method_settings
from training.peers.pool import Fitted, Pool
from training.peers.rmadapter import fit_adapters
from training.protocols import Plan

Ablation = Literal["losses", "sharing", "layers"]


def method_plan(clip: FrozenCLIP, methods: Sequence[str], lora_steps: int | None = None) -> Plan:
    """A plan of the named methods.

    Args:
        clip: the frozen CLIP that all methods share.
        methods: names of `METHODS`; surrounding spaces are ignored.
        lora_steps: CLIP-LoRA's steps per shot; None: its paper's number.

    Raises:
        RMAdapterError: no such method.
    """
    settings = method_settings(clip)
    if lora_steps is not None:
        settings = replace(settings, lora=replace(settings.lora, steps_per_shot=lora_steps))
    names = [name.strip() for name in methods]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise RMAdapterError(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")

    def fit_of(name: str) -> Callable[[Pool, int], Fitted]:
        return lambda train, seed: fit_method(name, clip, train, settings, seed)

    return {name: fit_of(name) for name in names}


def ablation_plan(clip: FrozenCLIP, ablation: Ablation) -> Plan:
    """A plan of RMAdapter under each row of one of the paper's ablations."""

    def fit_of(settings: FitSettings) -> Callable[[Pool, int], Fitted]:
        return lambda train, seed: fit_adapters(clip, train, replace(settings, seed=seed))

    return {label: fit_of(settings) for label, settings in ablation_rows(clip, ablation).items()}


def ablation_rows(clip: FrozenCLIP, ablation: Ablation) -> dict[str, FitSettings]:
    """The paper's rows (`training.protocols.published.ABLATIONS`) as settings.

    A shared up-projection, the paper's third variant, is not implemented.
    """
    default = default_settings(clip)
    adapter, full = default.adapter, default.losses
    if ablation == "sharing":
        shared = {"independent": False, "shared down": True}
        return {
            label: replace(default, adapter=replace(adapter, shared_down=value))
            for label, value in shared.items()
        }
    if ablation == "layers":
        return {
            label: replace(default, adapter=replace(adapter, reconstruction_layers=layers))
            for label, layers in (("one", 1), ("two", 2), ("three", 3))
        }
    no_image, no_text = {"image_reconstruction": 0.0}, {"text_reconstruction": 0.0}
    consistency = replace(full, **no_image, **no_text)
    losses = {
        "neither": replace(consistency, image_consistency=0.0, text_consistency=0.0),
        "consistency only": consistency,
        "+ text reconstruction": replace(full, **no_image),
        "+ visual reconstruction": replace(full, **no_text),
        "both": full,
    }
    return {label: replace(default, losses=weights) for label, weights in losses.items()}
