"""Every error that this project raises on purpose descends from `RMAdapterError`."""


class RMAdapterError(Exception):
    """The root. `str(error)` is fit to be shown to the person who sent the input."""


class UnsupportedModel(RMAdapterError):
    """A CLIP whose towers are not open_clip's own transformers, or weights that do not load."""


class BadImage(RMAdapterError):
    """Bytes that are not a picture, or one past the limits."""


class BadClasses(RMAdapterError):
    """Class names or a prompt template that cannot be used."""


class BadArtifact(RMAdapterError):
    """An adapter file that is cut short, changed, or of another format or CLIP."""


class DoesNotFit(RMAdapterError):
    """An adapter that exceeds the bank: rank, first block or width."""


class BadDataset(RMAdapterError):
    """Too few classes, too few images in a class, or no readable images."""
