"""Class names → prompts → features → scores, the same for fitting and serving."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from adapters.errors import BadClasses
from adapters.names import normal_name

TEMPLATE = "a photo of a {}."


def check_classes(classes: Sequence[str], max_classes: int) -> None:
    """Refuses a list without names, with too many, with empty or with repeated names.

    Raises:
        BadClasses: the list is refused; the message says why.
    """
    if not classes:
        raise BadClasses("no class names were given")
    if len(classes) > max_classes:
        raise BadClasses(f"{len(classes):,} class names, more than the {max_classes:,} allowed")
    empty = [i for i, name in enumerate(classes) if not normal_name(name)]
    if empty:
        raise BadClasses(f"class names {empty} (from 0) are empty")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise BadClasses(f"class names given twice: {', '.join(map(repr, twice))}")


def check_template(template: str) -> None:
    """Raises BadClasses unless the template has exactly one `{}`."""
    if template.count("{}") != 1:
        raise BadClasses(f"the template {template!r} must hold exactly one {{}} for the class name")


def mean_features(features: Tensor) -> Tensor:
    """One feature per class from its prompts' features: unit [..., P, e] → unit [..., e].

    It is the mean over templates in feature space, as in CLIP's own ImageNet ensemble.
    """
    return F.normalize(features.mean(-2), dim=-1)


def prompts(classes: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """One prompt per class; underscores in a name, as in folder names, become spaces."""
    return [template.replace("{}", prompt_name(name)) for name in classes]


def prompt_name(name: str) -> str:
    """A class's name as it appears in its prompt."""
    return normal_name(name.replace("_", " "))


def scores(images: Tensor, classes: Tensor, logit_scale: float) -> Tensor:
    """Softmax over classes of cos(x, w_c)/τ: unit [B, e], unit [C, e] → [B, C]."""
    return F.softmax(logit_scale * images @ classes.T, dim=-1)
