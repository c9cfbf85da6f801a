"""A whole deployment in one file.

The file is a tar with every blob of every tenant. All of it is checked before any of it is used.
Redis is rebuilt from it (`service.records.restore`). It holds tenants' API keys as hashes.

It does not hold what Redis alone knows: jobs and their history, idempotency keys, the names of
pictures' files, the numbers of deleted versions. It does not hold the admin key, nor the frozen
features of photos, which the next fit computes again.

It is consistent without a lock while the service runs, because pictures and versions never change
and files that point to them are written later. So pictures and versions are copied first, then the
files that point to them, the outermost last. A version that went live meanwhile is copied before
its `live.json`. Something added meanwhile may be missing, something deleted may be present; nothing
is half present.
"""

import gzip
import hashlib
import io
import json
import logging
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from service.archives import BROKEN, Careful, unpacked
from service.errors import Conflict, Invalid, NotFound
from service.records import Records
from service.records.adapters import LeftOut, live_version, version_path
from service.records.blobs import Blobs
from service.records.deletion import Pending
from service.records.formats import BLOB, FORMAT, check_blobs, check_format, mark_blobs, version_in
from service.records.restore import log_left_out, restore
from service.records.store import FORMAT_KEY, PREFIX
from service.records.tenants import is_manifest, revision_of

log = logging.getLogger(__name__)

_FILE_DIGITS = 16  # of a picture's file
_HEAD, _END = "backup.json", "end.json"
_MAX_BLOB = 2**30  # bytes; an adapter of ViT-L takes under 100 MB
_ID = r"[a-z]+_[0-9a-f]{1,64}"
_PATH = re.compile(
    rf"tenants/{_ID}/(tenant(\.[0-9]{{16}})?\.json|datasets/{_ID}/(dataset\.json|images/"
    r"([0-9a-f]{16}/(label\.json|[0-9a-f]{64})|[0-9a-f]{64}/[0-9a-f]{16}(\.[0-9]{16}\.json)?))|"
    r"adapters/[A-Za-z0-9][A-Za-z0-9._-]{0,199}/"
    r"(live\.json|live/[0-9]{16}\.json|versions/[0-9]{6,12}\.safetensors))"
)
_FEATURES = re.compile(rf"tenants/{_ID}/datasets/{_ID}/features/")  # computed again where missing
_NOTHING = Pending(())


@dataclass(slots=True)
class _Tally:
    """What the last entry must say; a file that was cut short or changed is refused by it."""

    blobs: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, path: str, data: bytes) -> None:
        self.blobs += 1
        self._digest.update(f"{path} {hashlib.sha256(data).hexdigest()}\n".encode())

    def encode(self) -> bytes:
        return json.dumps({"blobs": self.blobs, "sha256": self._digest.hexdigest()}).encode()


def backup(blobs: Blobs, file: Path, pending: Pending = _NOTHING) -> int:
    """Writes a backup with mode 0600, completely or not at all.

    Args:
        blobs: the object store.
        file: the file to write. A name that ends with gz is compressed, which makes photos and
            weights hardly smaller.
        pending: files that are to be deleted; they are left out.

    Returns:
        The number of blobs.

    Raises:
        NewerFormat, Unavailable: of the object store.
    """
    check_blobs(blobs)
    tally = _Tally()
    with _whole(file) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        _append(archive, _HEAD, json.dumps({"format": FORMAT}).encode())
        for path, data in _Snapshot(blobs, pending):
            tally.add(path, data)
            _append(archive, path, data)
        _append(archive, _END, tally.encode())
    return tally.blobs


def restore_backup(records: Records, file: Path, left_out: LeftOut = log_left_out) -> int:
    """Fills an empty deployment from a backup.

    The file is read twice: nothing is written before all of it was checked.

    Args:
        records: an empty deployment.
        file: the backup.
        left_out: called with the path of each file that cannot be read, and why.

    Returns:
        The number of tenants.

    Raises:
        Conflict: there are records or blobs already.
        NewerFormat: a newer release wrote the file, or what is stored.
        Invalid: it is no backup, or cut short, or changed.
    """
    records.refuse_newer()
    _refuse_used(records)
    for _ in _entries(file):
        pass
    for path, data in _entries(file):
        if not records.blobs.create(path, data):
            raise Conflict(f"{path} is there already; nothing of it was overwritten")
    mark_blobs(records.blobs)
    return restore(records, left_out)


def _refuse_used(records: Records) -> None:
    blobs = (path for path in records.blobs.paths("") if path != BLOB)
    kept = (key for key in records.store.scan_iter(match=f"{PREFIX}:*") if key != FORMAT_KEY)
    for what, names in (("the object store", blobs), ("Redis", kept)):
        if (name := next(names, None)) is not None:
            raise Conflict(f"{what} is not empty (it has {name}); a backup goes into empty ones")


class _Snapshot:
    """Every blob with its path; each comes after the blobs that it points to."""

    def __init__(self, blobs: Blobs, pending: Pending) -> None:
        self._blobs, self._pending = blobs, pending
        self._versions: set[str] = set()
        self._pictures: set[str] = set()
        self._labels: dict[str, str] = {}  # a picture's path → what tells its label, if listed
        self._adapters: set[str] = set()
        self._manifests: set[str] = set()  # of data sets, and of classes as earlier releases did
        self._tenants: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for path in self._blobs.paths("tenants"):
            if _FEATURES.match(path):
                continue
            if not _PATH.fullmatch(path):
                log.warning("left out, for it is nothing of this service: %s", path)
            elif not self._pending.covers(path):
                yield from self._listed(path)
        for picture in sorted(self._labels):
            yield from self._label(picture)
        for folder in sorted(self._adapters):
            yield from self._live(folder)
        for path in sorted(self._manifests, key=lambda p: (p.endswith("/dataset.json"), p)):
            yield from self._copy(path)
        for folder in sorted(self._tenants):
            yield from self._tenant(folder)

    def _listed(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Yields a file that never changes now; files that point to others are noted for later."""
        folder, name = path.rsplit("/", 1)
        if "/adapters/" in path:
            self._adapters.add(re.sub(r"/(versions|live)(/[^/]+|\.json)$", "", path))
            if name.endswith(".safetensors"):
                self._versions.add(path)
                yield from self._copy(path)
        elif is_manifest(name):
            self._tenants.add(folder)
        elif name in ("dataset.json", "label.json"):
            self._manifests.add(path)
        elif name.endswith(".json"):
            picture = f"{folder}/{name.partition('.')[0]}"
            self._labels[picture] = max(path, self._labels.get(picture, ""))
        else:
            if len(name) == _FILE_DIGITS:
                self._labels.setdefault(path, "")
                self._pictures.add(path)
            else:  # an earlier release's, beside label.json; the list may have been read before it
                self._manifests.add(f"{folder}/label.json")
            yield from self._copy(path)

    def _copy(self, path: str) -> Iterator[tuple[str, bytes]]:
        if (data := _get(self._blobs, path)) is not None:
            yield path, data

    def _label(self, picture: str) -> Iterator[tuple[str, bytes]]:
        """The file with a picture's present label; it may have moved since the list was read."""
        if picture not in self._pictures:
            yield from self._copy(picture)
        path = self._labels[picture]
        while path == "" or (data := _get(self._blobs, path)) is None:
            beside = self._blobs.paths(picture.rsplit("/", 1)[0])
            newest = max((p for p in beside if p.startswith(f"{picture}.")), default="")
            if newest in ("", path):
                return  # deleted meanwhile
            path = newest
        yield path, data

    def _tenant(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """The tenant's latest file, at the end: without it, a restore leaves out the tenant."""
        while files := [f for f in self._blobs.files(folder) if not self._pending.covers(f)]:
            path = max(files, key=revision_of)
            if (data := _get(self._blobs, path)) is not None:
                yield path, data
                return

    def _live(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """The file that says which version is live, after that version."""
        before = None
        while (path := self._pointer(folder)) is not None:
            pointer = _get(self._blobs, path)
            if pointer is None:
                continue
            version = version_path(folder, live_version(pointer))
            if version not in self._versions:
                data = _get(self._blobs, version)
                if data is None:
                    if path == before:  # not replaced meanwhile: it was lost before
                        log.warning("%s names a version that is missing; left out", path)
                        return
                    before = path
                    continue
                yield version, data
            yield path, pointer
            return

    def _pointer(self, folder: str) -> str | None:
        newest = max(self._blobs.paths(f"{folder}/live"), default=None)
        if newest is not None:
            return newest
        path = f"{folder}/live.json"
        return path if _get(self._blobs, path) is not None else None


def _get(blobs: Blobs, path: str) -> bytes | None:
    """The blob; None if it was deleted meanwhile."""
    try:
        return blobs.get(path)
    except NotFound:
        return None


@contextmanager
def _whole(file: Path) -> Iterator[IO[bytes]]:
    """A file under another name, mode 0600, until it is complete and on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)
    try:
        with os.fdopen(descriptor, "wb") as plain:
            if file.name.endswith("gz"):
                with gzip.open(plain, "wb", compresslevel=1) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield plain
            plain.flush()
            os.fsync(plain.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise


def _append(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), 0o600
    archive.addfile(entry, io.BytesIO(data))
    archive.members.clear()  # type: ignore[attr-defined]  # else all of them are kept in memory


def _entries(file: Path) -> Iterator[tuple[str, bytes]]:
    """The blobs of a backup. Only the last entry shows whether all are there and unchanged."""
    tally = _Tally()
    with file.open("rb") as stream:
        try:
            entries = _read_tar(stream)
            name, data = next(entries, ("", b""))
            if name != _HEAD:
                raise Invalid(f"{file} is not a backup of this service")
            check_format(version_in(data), str(file))
            for name, data in entries:
                if name == _END:
                    break
                if not _PATH.fullmatch(name):
                    raise Invalid(f"{file} has an entry that is none of a backup: {name[:200]!r}")
                tally.add(name, data)
                yield name, data
            if name != _END or data != tally.encode() or next(entries, None) is not None:
                raise Invalid(f"{file} is cut short or changed")
        except BROKEN as error:
            raise Invalid(f"{file} cannot be read: it is no backup, or cut short") from error


def _read_tar(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """The plain files of a tar, each of bounded size."""
    head = stream.read(6)
    stream.seek(0)
    careful = Careful(unpacked(stream, head), _MAX_BLOB)
    with tarfile.open(fileobj=careful, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            body = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
            if body is None or not 0 <= entry.size <= _MAX_BLOB:
                raise Invalid(f"an entry is not a plain file of a sane size: {entry.name[:200]!r}")
            data = body.read()
            if len(data) != entry.size:
                raise EOFError
            yield entry.name, data
