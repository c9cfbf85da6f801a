"""Multipart forms: a file's name in the extended notation counts as a name.

Starlette takes a part for a file when its header has `filename`. Some clients send `filename*`
(RFC 5987) alone, though RFC 7578 section 4.2 tells them not to; their pictures must not be lost.
Clients of Azure Custom Vision send a picture's bytes in a part named `imageData` without any name
of a file: as text they would be damaged, and a megabyte at most.
"""

import re
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette import formparsers

IMAGE_PART = b"imagedata"  # in small letters
_EXTENDED = re.compile(rb"""filename\*\s*=\s*"?([\w.-]+)'[\w-]*'([^;"\s]*)""", re.IGNORECASE)


def parse_disposition(header: bytes | str | None) -> tuple[bytes, dict[bytes, bytes]]:
    """A part's Content-Disposition, with a `filename` wherever the part is a file.

    It is taken from `filename*` where that stands alone, and is `imagedata` in a part of that name.

    Args:
        header: the header's value.

    Returns:
        The kind, and its parameters, as python-multipart gives them.
    """
    kind, options = parse_options_header(header)
    if options.get(b"name", b"").lower() == IMAGE_PART:
        options.setdefault(b"filename", IMAGE_PART)
    raw = header.encode("latin-1", "replace") if isinstance(header, str) else header or b""
    if b"filename" not in options and (found := _EXTENDED.search(raw)):
        options[b"filename"] = _decoded(*found.groups()).encode()
    return kind, options


def _decoded(charset: bytes, quoted: bytes) -> str:
    try:
        return unquote_to_bytes(quoted).decode(charset.decode("ascii"), "replace")
    except LookupError:  # a charset that nobody knows
        return unquote_to_bytes(quoted).decode("utf-8", "replace")


def accept_extended_file_names() -> None:
    """Makes Starlette's parser of multipart forms use `parse_disposition`."""
    formparsers.parse_options_header = parse_disposition  # type: ignore[attr-defined, assignment]
