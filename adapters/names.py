"""Names of classes: their normal form, and the names that the text tower cannot tell apart."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from adapters.errors import BadClasses

# Invisible format characters (Unicode's Cf): soft hyphen, zero-width space, direction marks, word
# joiner, byte order mark. Joiners and emoji tags are Cf too, but they change what is displayed, so
# they are not in this list.
_UNSEEN = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_JOINERS = "\u200c\u200d"
_MAX_PAIRS = 5  # pairs shown in one message


def normal_name(text: str) -> str:
    """The normal form in which a name is stored, compared, shown and put into prompts.

    It has composed letters (NFC), single plain spaces, none at the ends, and no invisible
    characters. Joiners stay where they change what is displayed: in emoji, Persian, Sinhala.
    """
    seen = _UNSEEN.sub("", text)
    if any(joiner in seen for joiner in _JOINERS):
        seen = "".join(c for i, c in enumerate(seen) if c not in _JOINERS or _joins(seen, i))
    return unicodedata.normalize("NFC", " ".join(seen.split()))


def _joins(text: str, at: int) -> bool:
    """Whether the joiner at a place has letters or signs beside it that it can change."""
    if at in (0, len(text) - 1):
        return False
    beside = text[at - 1], text[at + 1]
    return not any(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in beside)


def has_control(text: str) -> bool:
    """Whether a text holds NUL, another control character or half of a surrogate pair."""
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def alike(
    names: Iterable[str], prompt_ids: Callable[[str], Sequence[int]]
) -> list[tuple[str, str]]:
    """Pairs of names that are equal to the text tower: their prompts have the same tokens.

    Args:
        names: class names.
        prompt_ids: the token ids of a name's prompt.

    Returns:
        (earlier name, later name) for each name that equals an earlier one.
    """
    first: dict[tuple[int, ...], str] = {}
    pairs = []
    for name in names:
        ids = tuple(prompt_ids(name))
        if ids in first:
            pairs.append((first[ids], name))
        first.setdefault(ids, name)
    return pairs


def columns_of(
    names: Sequence[str], classes: Sequence[str], prompt_ids: Callable[[str], Sequence[int]]
) -> list[int]:
    """The class of each name: the class whose prompt has the same tokens.

    Args:
        names: requested names.
        classes: the classes' names.
        prompt_ids: the token ids of a name's prompt; may raise BadClasses.

    Returns:
        The index of each name's class, or -1.
    """

    def key(name: str) -> Sequence[int] | str:
        try:
            return tuple(prompt_ids(name))
        except BadClasses:  # too long for the usual prompt; the requested template may be shorter
            return normal_name(name)

    place = {key(name): i for i, name in enumerate(classes)}
    return [place.get(key(name), -1) for name in names]


def check_distinct(names: Sequence[str], prompt_ids: Callable[[str], Sequence[int]]) -> None:
    """Refuses names that the model cannot tell apart.

    Args:
        names: class names.
        prompt_ids: the token ids of a name's prompt.

    Raises:
        BadClasses: two names read the same; or a prompt is longer than the tower's context.
    """
    if pairs := alike(names, prompt_ids):
        said = "; ".join(f"{one!r} and {other!r}" for one, other in pairs[:_MAX_PAIRS])
        more = f"; and {len(pairs) - _MAX_PAIRS} more" if len(pairs) > _MAX_PAIRS else ""
        raise BadClasses(
            f"these class names read the same to the model: {said}{more}. Give each class one name"
        )
