"""Which folders of a photo tree belong to the system, and which folder names the class.

Archives, importers, the command line, training and the console share these rules. The console gets
the lists as JavaScript.
"""

import json
from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath

# Names that operating systems, file servers and tools put beside photos, compared without case.
# Names that start with a dot are skipped too (.DS_Store, ._photo.jpg, .ipynb_checkpoints).
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

# Generic folder names: one of these below a class folder does not name a class.
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
    """Whether any part of a path is a hidden, system or file server's name.

    Args:
        path: relative to the tree's root, so that the root itself may lie in a hidden folder.
    """
    return any(map(_is_junk_name, path.parts))


def _is_junk_name(name: str) -> bool:
    plain = name.casefold()
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or plain in JUNK or plain.endswith(JUNK_ENDINGS)


def class_level(paths: Iterable[PurePath]) -> int:
    """The number of levels from a photo up to the folder that names its class: 1 or 2.

    It is 2 if every photo lies in a folder with the same generic name (`rose/images/1.jpg`,
    `tulip/images/2.jpg`), or in split folders below several others (`rose/train/1.jpg`,
    `tulip/val/2.jpg`). `paths` is read only until this is ruled out.

    Args:
        paths: files relative to the tree's root; only files with a picture's ending count.
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
    """The class of a file, by the level that `class_level` found; '' if there is no folder."""
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
    """A path in POSIX form, from a path of Windows or another system."""
    return PurePosixPath(name.replace("\\", "/"))
