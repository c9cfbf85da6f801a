"""Every error that this project raises on purpose descends from `RMAdapterError`."""

_SHOWN = 60  # characters of a prompt in a message


class RMAdapterError(Exception):
    """The base class. `str(error)` can be shown to the person who sent the input."""


class UnsupportedModel(RMAdapterError):
    """A CLIP whose towers are not open_clip's own transformers, or weights that do not load."""


class BadImage(RMAdapterError):
    """Bytes that are not a picture, or a picture above the limits."""


class BadClasses(RMAdapterError):
    """Class names or a prompt template that cannot be used."""


class TooLong(BadClasses):
    """A prompt with more tokens than the text tower reads."""

    def __init__(self, prompt: str, tokens: int, most: int) -> None:
        shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}…"
        super().__init__(f"{shown!r} has {tokens} tokens, more than this model's {most}")
        self.prompt = prompt


class BadArtifact(RMAdapterError):
    """An adapter file that is cut short, changed, or of another format or CLIP."""


class DoesNotFit(RMAdapterError):
    """An adapter that exceeds the bank: rank, first block or width."""


class BadDataset(RMAdapterError):
    """Too few classes, too few images in a class, or no readable images."""
