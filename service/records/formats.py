"""The format of everything stored: records, manifests and the layout of the files.

Artifacts have a format of their own. Redis has the number under one key, the object store in one
file; where neither is, it is format 1, which the first releases wrote. A later format may be
unreadable here in any part, so it is refused as a whole: an older release that wrote into it would
lose what it does not know.

Format 2 puts a picture under its digest, not under its class (`service.records.datasets`). This
release reads and changes both. It marks an object store as format 2 when a server or a worker
starts on it.
"""

import json
from typing import Any

from service.errors import NewerFormat, NotFound
from service.records.blobs import Blobs

FORMAT = 2
BLOB = "format.json"


def check_format(found: object, what: str) -> None:
    """Raises NewerFormat; `found` is None where nothing is written."""
    try:
        known = found is None or 1 <= int(str(found)) <= FORMAT
    except ValueError:
        known = False
    if not known:
        raise NewerFormat(
            f"{what} has format {str(found)[:20]}, this release reads up to {FORMAT}:"
            " a newer release wrote it, and is needed to read it"
        )


def check_blobs(blobs: Blobs) -> None:
    """Raises NewerFormat or Unavailable."""
    try:
        check_format(version_in(blobs.get(BLOB)), "the object store")
    except NotFound:
        return


def mark_blobs(blobs: Blobs) -> None:
    """Says the format, unless the store says it already.

    Raises:
        NewerFormat, Unavailable: of the object store.
    """
    mark = json.dumps({"format": FORMAT}).encode()
    if not blobs.create(BLOB, mark):
        check_blobs(blobs)
        if blobs.get(BLOB) != mark:
            blobs.put(BLOB, mark)


def version_in(manifest: bytes) -> Any:
    """What a manifest says is its format; False, which none is, when it is no manifest."""
    try:
        return json.loads(manifest)["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
