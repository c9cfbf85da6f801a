"""The part of a version's record that inference reads."""

from typing import Protocol


class ServedVersion(Protocol):
    """One version of a tenant's adapter, as `service.records.adapters.Version` holds it."""

    @property
    def tenant(self) -> str:
        """The tenant's id."""

    @property
    def adapter(self) -> str:
        """The adapter's name."""

    @property
    def number(self) -> int:
        """The version's number, from 1."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes it was fitted on."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the whole artifact file, in hexadecimal."""

    @property
    def path(self) -> str:
        """Where the artifact lies in the object store."""

    @property
    def template(self) -> str:
        """The prompt that class names are put into."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before the softmax."""
