"""What a tenant may set of a fit: a small part of `FitSettings`, with bounds."""

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.classify import TEMPLATE
from adapters.clip import FrozenCLIP
from adapters.names import has_control
from training.fit import FitSettings, default_settings


def _writable(text: str) -> str:
    """JSON can hold half of a character, which no answer and no record can be written with."""
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("half of a surrogate pair")
    return text


def _shown(text: str) -> str:
    """A name is shown in lists, logs and terminals; NUL and other controls have no place there."""
    if has_control(text):
        raise ValueError("a control character")
    return text


Shown = AfterValidator(_shown)
Writable = AfterValidator(_writable)  # behind a Field, so that its limits stay a text's
Text = Annotated[str, Writable]
Template = Annotated[str, Field(max_length=200), Writable, Shown]


class FitParams(BaseModel):
    """Unset: the default for the CLIP that the worker runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(None, ge=1, le=200)
    learning_rate: float | None = Field(None, gt=0, le=0.1)
    batch_size: int | None = Field(None, ge=2, le=256)
    rank: int | None = Field(None, ge=1, le=64)
    seed: int = Field(1, ge=0, lt=2**31)
    template: Template = TEMPLATE

    def settings(self, clip: FrozenCLIP) -> FitSettings:
        """The full settings for a CLIP."""
        settings = default_settings(clip, seed=self.seed, template=self.template)
        names = ("epochs", "learning_rate", "batch_size")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.epochs is not None:
            settings = replace(settings, min_steps=1)  # so many epochs were asked for
        if self.rank is not None:
            settings = replace(settings, adapter=replace(settings.adapter, rank=self.rank))
        return replace(settings, **changes)
