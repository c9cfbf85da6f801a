"""Reads other tools' files: folders, text of any encoding, and paths of other machines."""

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from service.cli.importers.found import BadImport, Labelled
from training.folders import is_junk

_MAX_FILES = 1_000_000  # of one folder: more is a disk, not a data set
_MAX_TEXT = 2**30  # bytes; MS COCO's largest file has 470 MB
_MAX_TAILS = 8  # folders of a path that are tried
_DRIVE = re.compile(r"^[A-Za-z]:")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def walk(folder: Path, found: Labelled) -> list[Path]:
    """All files below a folder, sorted; hidden and system ones are counted and passed over.

    Raises:
        BadImport: it is no folder, is the root of the file system, or holds too many files.
    """
    check_folder(folder)
    files: list[Path] = []
    root = Path(folder.resolve().anchor).stat()
    seen = {(root.st_dev, root.st_ino)}  # links are followed, once, and never to the root

    def unread(error: OSError) -> None:
        found.left_out.append((str(error.filename), "the folder cannot be read"))

    for here, folders, names in os.walk(folder, onerror=unread, followlinks=True):
        at = Path(here)
        status = at.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inside = at.relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_junk(inside / name))
        wanted = [name for name in names if not is_junk(inside / name)]
        found.hidden += len(names) - len(wanted)
        files += [at / name for name in wanted]
        if len(files) > _MAX_FILES:
            raise BadImport(f"{folder} holds more than {_MAX_FILES:,} files: give a smaller folder")
    for file in files:
        if not file.is_file():
            why = "a broken link" if file.is_symlink() else "no file: a pipe, socket or device"
            found.left_out.append((str(file.relative_to(folder)), why))
    return sorted(file for file in files if file.is_file())


def check_folder(folder: Path) -> None:
    """Refuses a path that is not a folder, or is the root of the file system.

    Raises:
        BadImport: the path is refused; the message says why.
    """
    if not folder.exists():
        raise BadImport(f"{folder} does not exist")
    if not folder.is_dir():
        raise BadImport(f"{folder} is no folder")
    if folder.resolve() == Path(folder.resolve().anchor):
        raise BadImport(f"{folder} is the whole file system: give the folder of the photos")


def read_text(file: Path) -> str:
    """A text file in UTF-8 or UTF-16, with or without a byte order mark, else in code page 1252.

    Raises:
        BadImport: there is no such file, or it is too large to be one.
    """
    if not file.exists():
        raise BadImport(f"{file} cannot be read: it does not exist")
    if not file.is_file():
        raise BadImport(f"{file} is no file")
    try:
        if file.stat().st_size > _MAX_TEXT:
            raise BadImport(f"{file} has more than {_MAX_TEXT:,} bytes")
        data = file.read_bytes()
    except OSError as error:
        raise BadImport(f"{file} cannot be read: {error.strerror}") from error
    for encoding in (*_by_zeros(data), "utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _by_zeros(data: bytes) -> Sequence[str]:
    """UTF-16 by its mark, or by the zero bytes that ASCII characters have in it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ("utf-16",)
    head = data[:1000]
    if head[1::2].count(0) > len(head) / 4:
        return ("utf-16-le",)
    return ("utf-16-be",) if head[::2].count(0) > len(head) / 4 else ()


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        BadImport: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise BadImport(f"{file} is not JSON: {error}") from error


class Places:
    """Finds the photos that a file of labels names, in the folders where its tool puts them.

    Args:
        bases: folders, the likeliest first.
    """

    def __init__(self, *bases: Path) -> None:
        self._bases = list(dict.fromkeys(base for base in bases if base.is_dir())) or [bases[0]]
        self._named: dict[Path, str] = {}
        self._entries: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path:
        """The file of a path or URL: as written, else by its last folders, or its last part.

        A photo is never returned for two names, since `a/1.jpg` and `b/1.jpg` are different
        photos. If there is no file, the most likely path is returned.
        """
        tails = [tail for spelled in _spellings(name) for tail in _tails(spelled)]
        for look in (Path.joinpath, self._alike):
            for tail in tails:
                for base in self._bases:
                    file = look(base, tail)
                    if _is_file(file) and self._named.setdefault(file, name) == name:
                        return file
        return self._bases[0] / _spellings(name)[0].lstrip("/")

    def _alike(self, base: Path, tail: str) -> Path:
        """The file whose name differs only in case or Unicode form, as on Windows and macOS."""
        at = base
        for part in PurePosixPath(tail).parts:
            at = self._listed(at).get(_plain(part), at / part)
        return at

    def _listed(self, folder: Path) -> dict[str, Path]:
        if folder not in self._entries:
            try:
                entries = {_plain(entry.name): entry for entry in folder.iterdir()}
            except (OSError, ValueError):
                entries = {}
            self._entries[folder] = entries
        return self._entries[folder]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # too long a name, or one with NUL
        return False


def _spellings(name: str) -> list[str]:
    """As a POSIX path: the drive's letter, a URL's server and its escapes are taken off."""
    plain = _DRIVE.sub("", name.strip().replace("\\", "/"))
    if _SCHEME.match(plain) or "?" in plain:
        parts = urlsplit(plain)
        inside = parse_qs(parts.query).get("d")  # Label Studio's /data/local-files/?d=…
        return list(dict.fromkeys([inside[0] if inside else unquote(parts.path), plain]))
    return list(dict.fromkeys([plain, unquote(plain)]))


def _tails(name: str) -> Iterator[str]:
    parts = PurePosixPath(name).parts
    yield name
    for start in range(max(0, len(parts) - _MAX_TAILS), len(parts)):
        if parts[start] not in ("/", "//", ".."):
            yield "/".join(parts[start:])
