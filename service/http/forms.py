"""Multipart forms: a part with `filename*` alone is a file too.

For Starlette a part is a file if its header has `filename`. Some clients send only `filename*`
(RFC 5987), though RFC 7578, section 4.2, forbids it; their pictures must not be lost.
"""

import re
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette import formparsers

_EXTENDED = re.compile(rb"""filename\*\s*=\s*"?([\w.-]+)'[\w-]*'([^;"\s]*)""", re.IGNORECASE)


def parse_disposition(header: bytes | str | None) -> tuple[bytes, dict[bytes, bytes]]:
    """A part's Content-Disposition; `filename` comes from `filename*` if only that is sent.

    Args:
        header: the header's value.

    Returns:
        The kind, and its parameters, as python-multipart gives them.
    """
    kind, options = parse_options_header(header)
    raw = header.encode("latin-1", "replace") if isinstance(header, str) else header or b""
    if b"filename" not in options and (found := _EXTENDED.search(raw)):
        options[b"filename"] = _decoded(*found.groups()).encode()
    if options.get(b"name", b"").lower() == _IMAGE_PART:
        options.setdefault(b"filename", _IMAGE_PART)
    return kind, options


# Clients of Azure Custom Vision send a picture's bytes in a part of this name, in any case, without
# a file's name. Starlette would decode them as text, and refuse more than a megabyte.
_IMAGE_PART = b"imagedata"


def _decoded(charset: bytes, quoted: bytes) -> str:
    try:
        return unquote_to_bytes(quoted).decode(charset.decode("ascii"), "replace")
    except LookupError:  # a charset that nobody knows
        return unquote_to_bytes(quoted).decode("utf-8", "replace")


def accept_extended_file_names() -> None:
    """Makes Starlette's parser of multipart forms use `parse_disposition`."""
    formparsers.parse_options_header = parse_disposition  # type: ignore[attr-defined, assignment]
