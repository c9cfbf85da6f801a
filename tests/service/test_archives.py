"""Uploaded archives are read; nothing in them is trusted."""

import io
import tarfile
import zipfile

import pytest

from service.archives import ArchiveLimits, Rejected, read_archive
from service.errors import Invalid, TooLarge
from training.data import Sample

LIMITS = ArchiveLimits(entries=10, bytes=10_000, file_bytes=4_000)


def zipped(files: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream


GOOD = {"cat/1.jpg": b"one", "set/dog/2.jpg": b"two"}
both_kinds = pytest.mark.parametrize("pack", [zipped, tarred])


@both_kinds
def test_a_folder_is_a_class(pack) -> None:
    read = list(read_archive(pack(GOOD), LIMITS))
    assert read == [Sample("cat", "1.jpg", b"one"), Sample("dog", "2.jpg", b"two")]


@both_kinds
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../cat/1.jpg", "leads out"),
        ("cat/../../1.jpg", "leads out"),
        ("/etc/1.jpg", "leads out"),
        ("C:\\cat\\1.jpg", "leads out"),
        ("cat/more.zip", "archive in the archive"),
        ("cat/more.tar", "archive in the archive"),
        ("1.jpg", "not in a folder"),
    ],
)
def test_entries_that_cannot_be_trusted_are_rejected_and_the_rest_is_read(
    pack, name: str, reason: str
) -> None:
    bad, *good = read_archive(pack({name: b"x"} | GOOD), LIMITS)
    assert isinstance(bad, Rejected) and reason in bad.reason
    assert len(good) == 2


@both_kinds
def test_what_a_desktop_adds_is_left_out_without_a_word(pack) -> None:
    junk = {"__MACOSX/cat/._1.jpg": b"", "cat/.DS_Store": b"", "cat/Thumbs.db": b""}
    assert len(list(read_archive(pack(junk | GOOD), LIMITS))) == 2


@both_kinds
def test_a_file_over_the_limit_is_rejected(pack) -> None:
    big, *good = read_archive(pack({"cat/big.jpg": b"x" * 4001} | GOOD), LIMITS)
    assert isinstance(big, Rejected) and "4,000 bytes" in big.reason
    assert len(good) == 2


@both_kinds
def test_a_bomb_is_refused_before_it_is_unpacked_whole(pack) -> None:
    with pytest.raises(TooLarge, match="more than 10,000 bytes"):
        list(read_archive(pack({f"cat/{i}.jpg": b"\0" * 3000 for i in range(5)}), LIMITS))


@both_kinds
def test_too_many_files_are_refused(pack) -> None:
    with pytest.raises(TooLarge, match="more than 10 files"):
        list(read_archive(pack({f"cat/{i}.jpg": b"" for i in range(11)}), LIMITS))


def test_a_lying_header_does_not_unpack_more_than_allowed() -> None:
    data = bytearray(zipped({"cat/1.jpg": b"\0" * 9000}).getvalue())
    real, lie = (9000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    read = list(read_archive(io.BytesIO(bytes(data.replace(real, lie))), LIMITS))
    assert all(isinstance(item, Rejected) for item in read)


def test_links_are_rejected() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "cat/a"), (tarfile.LNKTYPE, "cat/b")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    link = zipfile.ZipInfo("cat/c")
    link.external_attr = 0o120777 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    for file in (stream, packed):
        assert all("a link" in item.reason for item in read_archive(file, LIMITS))


@pytest.mark.parametrize("data", [b"", b"nothing", b"PK\x03\x04 broken", b"\x1f\x8b broken"])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        list(read_archive(io.BytesIO(data), LIMITS))


def test_an_archive_cut_short_is_refused() -> None:
    whole = tarred({f"cat/{i}.jpg": bytes(range(256)) * 4 for i in range(5)}).getvalue()
    with pytest.raises(Invalid, match="cannot be read"):
        list(read_archive(io.BytesIO(whole[: len(whole) // 2]), LIMITS))
