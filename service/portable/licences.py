"""Under which licence a CLIP's weights stand, as far as their publishers' pages say it."""

from dataclasses import dataclass
from pathlib import Path

import adapters

_WEIGHTS = Path(adapters.__file__).parent / "bundled" / "WEIGHTS.md"
_CHECK = (
    "This file repeats what the publisher's page said when this release was made. It is no legal"
    " advice; the publisher's own text holds.\n"
)


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence's name, what goes into the zip, and what its user must be told, if anything."""

    name: str
    text: str
    warning: str | None = None


_OPENAI = "MIT License, Copyright (c) 2021 OpenAI; https://github.com/openai/CLIP"
_LAION = "MIT License; https://huggingface.co/laion"
_APPLE = "Apple's licence for research on machine-learning models; https://huggingface.co/apple"
_KNOWN = (  # the start of open_clip's tag, its licence, and whether that limits commercial use
    ("openai", _OPENAI, False),
    ("laion", _LAION, False),
    ("datacompdr", _APPLE, True),
    ("datacomp", _LAION, False),
    ("commonpool", _LAION, False),
    ("metaclip", "CC BY-NC 4.0; https://github.com/facebookresearch/MetaCLIP", True),
    ("dfn", _APPLE, True),
)


def licence_of(model: str, pretrained: str | None) -> Licence:
    """The licence of a model's weights.

    Args:
        model: the setting of this name.
        pretrained: open_clip's tag or a file; None for the bundled model.

    Returns:
        The licence; with a warning where it limits what may be done, or where it is not known.
    """
    if model == "bundled":
        return Licence("Apache-2.0", _WEIGHTS.read_text())
    tag = (pretrained or "").lower()
    for start, name, limited in _KNOWN:
        if tag.startswith(start) and not Path(pretrained or "").is_file():
            said = f"The weights {model}/{pretrained}: {name}\n{_CHECK}"
            warning = f"the weights' licence limits their use: {name}" if limited else None
            return Licence(name, said, warning)
    warning = f"the licence of {pretrained or 'these weights'} is not known here; ask who made them"
    return Licence("not known", f"The weights {model}/{pretrained}: {warning}.\n", warning)
