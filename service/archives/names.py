"""Names in archives: which encoding they are in, and what is said where that is a guess."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

_UTF8_FLAG = 1 << 11  # of a zip entry: its name is UTF-8
_UNICODE_PATH = 0x7075  # a zip entry's extra field with its name in UTF-8: WinZip, 7-Zip, WinRAR
_NAMES_SAID = 3  # of a warning
_MAX_NAME = 255  # characters, as on most disks


class Names:
    """Decodes the names of an archive, and remembers those that are no UTF-8."""

    def __init__(self) -> None:
        self._guessed: list[str] = []
        self._odd: list[str] = []

    def of_zip(self, entry: zipfile.ZipInfo) -> str:
        """As the flag says; else from the Unicode field; else UTF-8; else code page 437.

        macOS, Java and others write UTF-8 without the flag. Code page 437 is what PKZIP's
        specification (APPNOTE.TXT, D.1) says of names without it.
        """
        if entry.flag_bits & _UTF8_FLAG:
            return entry.filename
        raw = entry.orig_filename.encode("cp437")  # as zipfile has decoded it, without loss
        name = _unicode_path(entry.extra, raw)
        try:
            return name or raw.decode()
        except UnicodeDecodeError:
            self._remember(raw.decode("cp437"), _looks_misread(raw))
            return entry.filename

    def of_tar(self, entry: tarfile.TarInfo) -> str:
        """UTF-8, else code page 1252: a tar file does not say which."""
        try:
            entry.name.encode()
            return entry.name
        except UnicodeEncodeError:
            raw = entry.name.encode("utf-8", "surrogateescape")
            name = raw.decode("cp1252", "replace")
            self._remember(name, "\ufffd" in name)
            return name

    def _remember(self, name: str, odd: bool) -> None:
        kept, said = (self._odd if odd else self._guessed), shown(name)
        if len(kept) < _NAMES_SAID and said not in kept:
            kept.append(said)

    def warnings(self) -> Iterator[str]:
        """What the one who sent it should check."""
        advice = "check the classes' names, or pack again with UTF-8 names"
        if self._guessed:
            listed = _listed(self._guessed)
            yield f"names are not UTF-8, read by an old code page: {listed}; {advice}"
        if self._odd:
            yield f"names in an unknown encoding, shown wrongly: {_listed(self._odd)}; {advice}"


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in the Unicode field (APPNOTE.TXT, 4.6.9), where it is for this name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == b"\1" + struct.pack("<I", zlib.crc32(raw)):
            try:
                return field[5:].decode().partition("\0")[0]
            except UnicodeDecodeError:
                return None
    return None


def _looks_misread(raw: bytes) -> bool:
    """Whether bytes are frames, Greek or signs in code page 437: names in GBK, Shift JIS, 1252."""
    letters = b"\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xe1"  # á í ó ú ñ Ñ ª º ß
    return any(byte > 0x9A and byte not in letters for byte in raw)


def shown(name: str) -> str:
    """A name of any bytes as text that can be written, and not a long one."""
    return name[-_MAX_NAME:].encode("utf-8", "replace").decode()
