"""A list of files' SHA-256 beside them, so that what was changed or cut short is not loaded."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def write_hashes(listing: Path, files: Iterable[Path]) -> None:
    """Writes the list of files that lie beside it.

    Args:
        listing: the file to write: JSON, name → 64 hex digits.
        files: in the same folder.
    """
    listing.write_text(json.dumps({file.name: sha256_of(file) for file in files}, indent=1))


def hold(listing: Path) -> bool:
    """Whether there is such a list, and each file of it is there as it was when it was written."""
    try:
        expected = json.loads(listing.read_text())
        return bool(expected) and all(
            sha256_of(listing.parent / name) == digest for name, digest in expected.items()
        )
    except (OSError, ValueError, AttributeError):  # none, or not what was written
        return False


def sha256_of(file: Path) -> str:
    """A file's SHA-256, as 64 hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
