"""Labels of a data set: which new ones it can take."""

from collections.abc import Iterable
from contextlib import suppress

from adapters.clip import FrozenCLIP
from adapters.errors import BadClasses
from adapters.names import has_control, normal_name
from service.errors import Invalid, Problem
from service.http.schemas import MAX_NAME


class Labels:
    """The labels of a data set, to which an upload or a move adds."""

    def __init__(self, clip: FrozenCLIP, known: Iterable[str], most: int) -> None:
        """Starts with the labels that the data set has.

        Args:
            clip: the model that must tell them apart.
            known: the labels that the data set has.
            most: the largest number of labels; more could not be classified in one request.
        """
        self._clip, self._most = clip, most
        self._known: dict[tuple[int, ...], str] = {}
        for label in known:
            with suppress(BadClasses):  # an earlier release took longer ones
                self._known[clip.prompt_ids(label)] = label

    def take(self, label: str) -> str:
        """A label's normal form, or the existing label that is equal to it.

        Raises:
            Invalid: empty, too long, not printable, one too many, or read by the model as another
                label is.
        """
        name = normal_name(label)
        if not name or len(label) > MAX_NAME or has_control(label):
            reason = f"{label[:120]!r} is not 1 to {MAX_NAME} printable characters"
            raise Invalid("a label cannot be used", Problem("label", reason))
        try:
            ids = self._clip.prompt_ids(name)
        except BadClasses as error:
            raise Invalid("a label is too long", Problem("label", str(error))) from error
        if ids not in self._known and len(self._known) >= self._most:
            reason = f"{name!r} would be one more than the {self._most:,} classes allowed"
            raise Invalid("too many labels", Problem("label", reason))
        known = self._known.setdefault(ids, name)
        if normal_name(known) != name:
            reason = f"{name!r} reads the same to the model as {known!r}, which is there already"
            raise Invalid("two labels read the same", Problem("label", reason))
        return known
