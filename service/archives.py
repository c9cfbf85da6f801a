"""Uploaded archives: zip or tar, a folder a class. Nothing in them is trusted."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from service.errors import Invalid, Problem, TooLarge
from training.data import Sample

_NESTED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


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


def read_archive(file: IO[bytes], limits: ArchiveLimits) -> Iterator[Sample | Rejected]:
    """The pictures of an archive, each with its folder's name as label, and what was rejected.

    Raises:
        Invalid: it is neither a zip nor a tar file, or is broken.
        TooLarge: more files or bytes than allowed.
    """
    try:
        if zipfile.is_zipfile(file):
            file.seek(0)
            yield from _read_zip(file, limits)
        else:
            file.seek(0)
            yield from _read_tar(file, limits)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise Invalid(
            "the archive cannot be read", Problem("archive", "not a zip or tar file, or broken")
        ) from error


def _read_zip(file: IO[bytes], limits: ArchiveLimits) -> Iterator[Sample | Rejected]:
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_count(len(entries), limits)
        total = 0
        for entry in entries:
            link = (entry.external_attr >> 16) & 0o170000 == 0o120000
            reason = "a link" if link else _refused(entry.filename)
            if reason is None and entry.flag_bits & 1:
                reason = "encrypted"
            if reason is not None:
                yield from _reject(entry.filename, reason)
                continue
            try:
                with archive.open(entry) as stream:
                    data = _read(stream, limits)
            except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError) as error:
                yield Rejected(entry.filename, f"cannot be unpacked: {error}")
                continue
            total = _check_total(total + (len(data) if data else limits.file_bytes), limits)
            yield _sample(entry.filename, data, limits)


def _read_tar(file: IO[bytes], limits: ArchiveLimits) -> Iterator[Sample | Rejected]:
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        count = total = 0
        for entry in archive:
            if entry.isdir():
                continue
            count += 1
            _check_count(count, limits)
            reason = _refused(entry.name) if entry.isreg() else "a link or a device"
            total = _check_total(total + entry.size, limits)
            if reason is not None:
                yield from _reject(entry.name, reason)
                continue
            data = _read(archive.extractfile(entry) or io.BytesIO(), limits)
            yield _sample(entry.name, data, limits)


def _refused(name: str) -> str | None:
    """Why an entry is not even opened; '' for what is left out without a word."""
    path = PurePosixPath(name.replace("\\", "/"))
    if any(part in _JUNK or part.startswith("._") for part in path.parts):
        return ""
    if path.is_absolute() or ":" in path.parts[0] or ".." in path.parts:
        return "its path leads out of the archive"
    if path.suffix.lower() in _NESTED:
        return "an archive in the archive"
    return None if len(path.parts) > 1 else "not in a folder, which would name its class"


def _reject(name: str, reason: str) -> Iterator[Rejected]:
    if reason:
        yield Rejected(name, reason)


def _read(stream: IO[bytes], limits: ArchiveLimits) -> bytes | None:
    """At most one byte more than allowed, whatever the header says; None: too large."""
    data = stream.read(limits.file_bytes + 1)
    return None if len(data) > limits.file_bytes else data


def _sample(name: str, data: bytes | None, limits: ArchiveLimits) -> Sample | Rejected:
    if data is None:
        return Rejected(name, f"more than {limits.file_bytes:,} bytes")
    path = PurePosixPath(name.replace("\\", "/"))
    return Sample(path.parent.name, path.name, data)


def _check_count(count: int, limits: ArchiveLimits) -> None:
    if count > limits.entries:
        raise TooLarge(f"the archive holds more than {limits.entries:,} files")


def _check_total(total: int, limits: ArchiveLimits) -> int:
    if total > limits.bytes:
        raise TooLarge(f"the archive holds more than {limits.bytes:,} bytes")
    return total
