"""Uploaded archives: zip or tar, a folder per class. Nothing in them is trusted.

Sizes that a header claims are not believed: no read is longer than a picture may be, so neither a
directory nor a header nor an entry can fill the memory, however small the file is that it is in.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Self

from service.archives.names import Names, shown
from service.errors import Invalid, Problem, TooLarge
from training.data import Sample
from training.folders import class_level, class_name, is_junk, posix

_NESTED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_ZIP_ENTRY_BYTES = 300  # of a zip file's directory, with a long name
_TAR_ENTRY_BYTES = 4096  # of a tar file beside the data: headers and padding
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    OverflowError,
    RuntimeError,  # NotImplementedError and RecursionError too
)
_MAX_HEADER = (
    2**16
)  # bytes of a tar file's extended headers before one entry; a few hundred are usual
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DRIVE = re.compile("[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that was not taken, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """entries: files in it; bytes: all of them unpacked; file_bytes: one of them."""

    entries: int
    bytes: int
    file_bytes: int


class Careful(io.RawIOBase):
    """A file that is read in pieces of bounded length.

    Args:
        file: the file underneath.
        longest: bytes of one piece, at most.
        most: bytes in all, at most. With it, the file is read once, from its start to its end.
    """

    def __init__(self, file: IO[bytes], longest: int, most: int | None = None) -> None:
        self._file, self._longest, self._left = file, longest, most

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes; counts what is read against the archive's limit."""
        data = self._file.read(self._longest + 1 if size < 0 else min(size, self._longest + 1))
        if len(data) > self._longest:
            raise TooLarge(f"a part of the archive is longer than {self._longest:,} bytes")
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise TooLarge("the archive unpacks to more than its files")
        return data

    def seekable(self) -> bool:
        """Whether the archive's own file can seek."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seeks as `io.RawIOBase.seek` does."""
        if self._left is not None and offset < self._file.tell() - 1:  # by one, tarfile does
            raise ValueError("a size below zero")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position in the archive, in bytes."""
        return self._file.tell()


def read_archive(
    file: IO[bytes], limits: ArchiveLimits, warn: Callable[[str], None] = lambda _: None
) -> Iterator[Sample | Rejected]:
    """The pictures of an archive, each with its folder's name as label, and what was rejected.

    Args:
        file: can seek.
        limits: the most that it may hold.
        warn: is told of names that may be misread.

    Raises:
        Invalid: it is neither a zip nor a tar file, or is broken.
        TooLarge: more files or bytes than allowed.
    """
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    names = Names()
    try:  # by how it starts: a tar file may hold what looks like the end of a zip file
        if head.startswith(b"PK"):
            yield from _read_zip(file, limits, names)
        else:
            level = class_level(_tar_paths(unpacked(file, head), limits))
            file.seek(0)
            yield from _read_tar(unpacked(file, head), limits, names, level)
    except UnicodeDecodeError as error:
        reason = "a name in it is marked as UTF-8 and is not"
        raise Invalid("the archive cannot be read", Problem("archive", reason)) from error
    except BROKEN as error:
        raise Invalid(
            "the archive cannot be read", Problem("archive", "not a zip or tar file, or broken")
        ) from error
    for text in names.warnings():
        warn(text)


def unpacked(file: IO[bytes], head: bytes) -> IO[bytes]:
    """The tar file in a compressed one; each of these unpacks no more than it is asked for."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(file)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(file)
    if head.startswith(b"\xfd7zXZ"):
        return lzma.open(file)
    return file


def _read_zip(file: IO[bytes], limits: ArchiveLimits, names: Names) -> Iterator[Sample | Rejected]:
    longest = max(limits.file_bytes + 1, limits.entries * _ZIP_ENTRY_BYTES)
    with zipfile.ZipFile(Careful(file, longest)) as archive:
        _check_count(len(archive.infolist()), limits)
        total = 0
        entries = [(names.of_zip(e), e) for e in archive.infolist() if not e.is_dir()]
        level = class_level(posix(name) for name, _ in entries)
        for name, entry in entries:
            reason = _refused_in_zip(name, entry)
            if reason is not None:
                yield from _reject(name, reason)
                continue
            try:
                with archive.open(entry) as stream:
                    data = _read(stream, limits)
            except BROKEN as error:
                yield Rejected(shown(name), f"cannot be unpacked: {error}")
                continue
            total = _check_total(total + (len(data) if data else limits.file_bytes), limits)
            yield _sample(name, level, data, limits)


def _refused_in_zip(name: str, entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a link or a device"
    if (reason := _refused(name)) is not None:
        return reason
    if entry.flag_bits & 1:
        return "encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed by a method that is not read here"  # they unpack all at once
    return None


def _read_tar(
    file: IO[bytes], limits: ArchiveLimits, names: Names, level: int
) -> Iterator[Sample | Rejected]:
    total = 0
    for archive, entry in _tar_entries(file, limits):
        if entry.isdir():
            continue
        total = _check_total(total + entry.size, limits)
        name = names.of_tar(entry)
        plain = entry.isreg() and not entry.issparse()
        reason = _refused(name) if plain else "a link, a device or a sparse file"
        if reason is not None:
            yield from _reject(name, reason)
            continue
        data = _read(archive.extractfile(entry) or io.BytesIO(), limits)
        yield _sample(name, level, data, limits)


def _tar_paths(file: IO[bytes], limits: ArchiveLimits) -> Iterator[PurePosixPath]:
    """The files' paths, for a first look; whoever reads on finds what is wrong with them."""
    names = Names()
    for _, entry in _tar_entries(file, limits):
        if entry.isreg():
            yield posix(names.of_tar(entry))


def _tar_entries(
    file: IO[bytes], limits: ArchiveLimits
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    most = limits.bytes + limits.entries * _TAR_ENTRY_BYTES
    careful = Careful(file, max(limits.file_bytes + 1, tarfile.RECORDSIZE), most)
    with tarfile.open(fileobj=careful, mode="r:", tarinfo=_counting_member()) as archive:
        count = 0
        while (entry := archive.next()) is not None:
            count += 1
            _check_count(count, limits)
            if entry.size < 0:
                raise ValueError("a size below zero")
            yield archive, entry
            archive.members = []  # type: ignore[attr-defined]  # each keeps its headers


def _counting_member() -> type[tarfile.TarInfo]:
    """An entry's class for one archive, which refuses extended headers before they are read.

    Their records become dictionaries of many times their size, one of them kept for the whole
    archive, and one header after another is read by recursion: so all before an entry count.
    """

    class Member(tarfile.TarInfo):
        before_entry = whole_archive = 0  # bytes

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            member = super().frombuf(buf, encoding, errors)
            cls.before_entry += member.size if member.type in _HEADERS else -cls.before_entry
            cls.whole_archive += member.size if member.type == tarfile.XGLTYPE else 0
            if max(cls.before_entry, cls.whole_archive) > _MAX_HEADER:
                raise TooLarge(
                    f"the archive has an extended header of more than {_MAX_HEADER:,} bytes; "
                    "pack again without extended attributes, or as a zip file"
                )
            return member

    return Member


def _refused(name: str) -> str | None:
    """Why an entry is not even opened; '' for what is left out without a word."""
    path = posix(name)
    if not path.parts or "\0" in name:
        return "a name that is none"
    if path.is_absolute() or _DRIVE.fullmatch(path.parts[0]) or ".." in path.parts:
        return "its path leads out of the archive"
    if is_junk(path):
        return ""
    if path.suffix.lower() in _NESTED:
        return "an archive in the archive"
    return None if len(path.parts) > 1 else "not in a folder, which would name its class"


def _reject(name: str, reason: str) -> Iterator[Rejected]:
    if reason:
        yield Rejected(shown(name), reason)


def _read(stream: IO[bytes], limits: ArchiveLimits) -> bytes | None:
    """At most one byte more than allowed, whatever the header says; None: too large."""
    data = stream.read(limits.file_bytes + 1)
    return None if len(data) > limits.file_bytes else data


def _sample(name: str, level: int, data: bytes | None, limits: ArchiveLimits) -> Sample | Rejected:
    if data is None:
        return Rejected(shown(name), f"more than {limits.file_bytes:,} bytes")
    path = posix(name)
    return Sample(shown(class_name(path, level)), shown(path.name), data)


def _check_count(count: int, limits: ArchiveLimits) -> None:
    if count > limits.entries:
        raise TooLarge(f"the archive holds more than {limits.entries:,} files")


def _check_total(total: int, limits: ArchiveLimits) -> int:
    if total > limits.bytes:
        raise TooLarge(f"the archive holds more than {limits.bytes:,} bytes")
    return total
