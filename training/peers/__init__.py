"""The baselines: other methods on the same frozen CLIP and the same pictures.

Every method takes a `Pool` and returns a `Fitted`. A pool holds the input of the first block, so
that pictures pass the patch embedding (the bundled CLIP's costly part) once for all methods.

LP++ and Tip-Adapter-F are limited to the classes that they were fitted on. Other names get the
frozen CLIP's zero-shot answer, since the papers give no other method.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from adapters.clip import BUNDLED, FrozenCLIP
from adapters.errors import RMAdapterError
from training.fit import FitSettings, default_settings
from training.peers.lora import LoRASettings, fit_lora
from training.peers.lp import LPSettings, fit_lp
from training.peers.mma import MMASettings, fit_mma
from training.peers.pool import Fitted, Pool, frozen_cosines
from training.peers.rmadapter import fit_adapters, fit_with_head
from training.peers.tip import TipSettings, fit_tip


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """All methods' settings; `fit` is RMAdapter's."""

    fit: FitSettings
    lp: LPSettings = field(default_factory=LPSettings)
    tip: TipSettings = field(default_factory=TipSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    mma: MMASettings = field(default_factory=MMASettings)


def method_settings(clip: FrozenCLIP) -> MethodSettings:
    """The defaults for a CLIP.

    The baselines have their papers' settings, with one exception. The effect of MMA's learning rate
    depends on a model's scale, so it was searched for the bundled CLIP, like RMAdapter's settings.
    """
    mma = MMASettings(learning_rate=5e-3) if clip.name == BUNDLED else MMASettings()
    return MethodSettings(default_settings(clip), mma=mma)


def zero_shot(clip: FrozenCLIP, settings: MethodSettings) -> Fitted:
    """The frozen CLIP's own answers."""
    return Fitted(0, frozen_cosines(clip, settings.fit.template))


Fit = Callable[[FrozenCLIP, Pool, MethodSettings, int], Fitted]

_FITS: dict[str, Fit] = {
    "zero-shot": lambda clip, _, settings, __: zero_shot(clip, settings),
    "lp++": lambda clip, train, settings, _: fit_lp(
        clip, train, settings.fit.template, settings.lp
    ),
    "tip-adapter-f": lambda clip, train, settings, seed: fit_tip(
        clip, train, settings.fit.template, settings.tip, seed
    ),
    "clip-lora": lambda clip, train, settings, seed: fit_lora(
        clip, train, settings.fit.template, settings.lora, seed
    ),
    "mma": lambda clip, train, settings, seed: fit_mma(
        clip, train, settings.fit.template, settings.mma, seed
    ),
    "rmadapter": lambda clip, train, settings, seed: fit_adapters(
        clip, train, replace(settings.fit, seed=seed)
    ),
    "rmadapter+photos": lambda clip, train, settings, seed: fit_with_head(
        clip, train, replace(settings.fit, seed=seed)
    ),
}
METHODS = tuple(_FITS)


def fit_method(
    name: str, clip: FrozenCLIP, train: Pool, settings: MethodSettings, seed: int
) -> Fitted:
    """Fits one of `METHODS` on the pool's classes, deterministic under the seed.

    Raises:
        RMAdapterError: no such method.
    """
    if name not in _FITS:
        raise RMAdapterError(f"no method {name!r}; there are {', '.join(METHODS)}")
    return _FITS[name](clip, train, settings, seed)
