"""Class names → prompts → features → scores, the same for fitting and serving."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from adapters.errors import BadClasses
from adapters.names import normal_name

TEMPLATE = "a photo of a {}."


def check_classes(classes: Sequence[str], max_classes: int) -> None:
    """Refuses a list of names by its length, its empty and its repeated names.

    Raises:
        BadClasses: names what is wrong.
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
    """The features of a class's prompts to its own: unit [..., P, e] → unit [..., e].

    The mean over templates in feature space, as CLIP's own ImageNet ensemble takes it.
    """
    return F.normalize(features.mean(-2), dim=-1)


def prompts(classes: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """One prompt a class; underscores in a name, as folders have them, are read as spaces."""
    return [template.replace("{}", prompt_name(name)) for name in classes]


def prompt_name(name: str) -> str:
    """A class's name as its prompt has it."""
    return normal_name(name.replace("_", " "))


def scores(images: Tensor, classes: Tensor, logit_scale: float) -> Tensor:
    """Softmax over classes of cos(x, w_c)/τ: unit [B, e], unit [C, e] → [B, C]."""
    return F.softmax(logit_scale * images @ classes.T, dim=-1)
