"""What the folders of a tree of photos mean: which are not the user's, and which names the class.

One notion for archives, importers, the command line, training and the console, which is served
these lists as JavaScript.
"""

import json
from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath

# What operating systems, file servers and tools put beside photos, in any case of letters. Every
# name that starts with a dot is left out too (.DS_Store, ._photo.jpg, .ipynb_checkpoints).
JUNK = frozenset(
    {
        "__macosx",  # macOS: archives and shared disks
        "icon\r",
        "network trash folder",
        "temporary items",
        "thumbs.db",  # Windows
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "found.000",
        "@eadir",  # Synology
        "@tmp",
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@__thumb",
        "@sharebin",
        "~snapshot",  # NetApp
        "lost+found",  # Linux
        "__pycache__",
    }
)
JUNK_ENDINGS = ("@synoeastream", "@synoresource")  # Synology's streams beside a file

# A folder of such a name under every class says nothing of what is on the photos.
GENERIC = frozenset(
    {
        *("images", "image", "imgs", "img", "photos", "photo", "pictures", "picture", "pics"),
        *("jpg", "jpgs", "jpeg", "jpegs", "png", "jpegimages", "raw", "original", "originals"),
        *("files", "data", "samples", "frames", "crops"),
    }
)
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"),
    }
)


def is_junk(path: PurePath) -> bool:
    """Whether a hidden, system or file server's name is anywhere in a path within the tree.

    Args:
        path: from the tree's root on, so that the root itself may lie in a hidden folder.
    """
    return any(map(_is_junk_name, path.parts))


def _is_junk_name(name: str) -> bool:
    plain = name.casefold()
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or plain in JUNK or plain.endswith(JUNK_ENDINGS)


def class_level(paths: Iterable[PurePath]) -> int:
    """How many folders above a photo the one is that names its class: 1, or 2.

    It is 2 where every photo lies in a folder of one generic name (`rose/images/1.jpg`,
    `tulip/images/2.jpg`), or in folders of splits' names that lie in several others
    (`rose/train/1.jpg`, `tulip/val/2.jpg`). `paths` is read only as far as that can be so.

    Args:
        paths: files from the tree's root on; those without a picture's ending have no say.
    """
    inner: set[str] = set()
    outer: set[str] = set()
    one_word = False
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or is_junk(path):
            continue
        name = path.parent.name.casefold()
        inner.add(name)
        one_word = len(inner) == 1 and name in GENERIC
        if len(path.parts) < 3 or not (one_word or inner <= SPLITS):
            return 1
        if len(outer) < 2:
            outer.add(path.parent.parent.name)
    above_splits = {name.casefold() for name in outer} <= SPLITS  # train/images/1.jpg
    return 2 if not above_splits and (one_word or len(outer) > 1) else 1


def class_name(path: PurePath, level: int) -> str:
    """The name of a file's class, by the level that `class_level` found; '' in no folder."""
    above, folder = path.parent.parent.name, path.parent.name
    empty = folder.casefold() in GENERIC | SPLITS
    return above if level == 2 and above and empty else folder


def as_javascript() -> str:
    """The lists as a module for the console."""
    lists = {
        "JUNK": JUNK,
        "JUNK_ENDINGS": JUNK_ENDINGS,
        "GENERIC": GENERIC,
        "SPLITS": SPLITS,
        "SUFFIXES": SUFFIXES,
    }
    lines = (f"export const {name} = {json.dumps(sorted(words))};" for name, words in lists.items())
    return "\n".join(lines) + "\n"


def posix(name: str) -> PurePosixPath:
    """A path as Windows or anything else writes it."""
    return PurePosixPath(name.replace("\\", "/"))
