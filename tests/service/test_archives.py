"""Uploaded archives are read; nothing in them is trusted."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc
import zipfile
import zlib

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
@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX/cat/._1.jpg",
        "cat/.DS_Store",
        "cat/THUMBS.DB",
        "cat/.ipynb_checkpoints/1-checkpoint.jpg",
        "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".thumbnails/1.jpg",
        "cat/.AppleDouble/1.jpg",
        "#recycle/cat/1.jpg",
        "$RECYCLE.BIN/S-1-5/1.jpg",
        "System Volume Information/1.jpg",
        "lost+found/1.jpg",
        "cat/@Recycle/1.jpg",
        "#snapshot/day/1.jpg",
        "cat/1.jpg@SynoEAStream",
        "__MACOSX\\cat\\1.jpg",
    ],
)
def test_what_desktops_and_file_servers_add_is_left_out_without_a_word(pack, name: str) -> None:
    read = list(read_archive(pack({name: b"x"} | GOOD), LIMITS))
    assert read == [Sample("cat", "1.jpg", b"one"), Sample("dog", "2.jpg", b"two")]


def zip_of_names(*names: bytes, flags: int = 0, extra: bytes = b"") -> io.BytesIO:
    """A zip file whose entries' names are these bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, name in enumerate(names):
            entry = zipfile.ZipInfo(f"{number:0{len(name)}}")
            entry.extra = extra
            archive.writestr(entry, b"x")
    data = bytearray(stream.getvalue())
    for number, name in enumerate(names):
        data = data.replace(f"{number:0{len(name)}}".encode(), name)
    if flags:
        for head, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(head) + place + 1] |= flags >> 8
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize(
    ("raw", "label", "said"),
    [
        ("Löwenzahn/1.jpg".encode(), "Löwenzahn", ""),  # macOS: UTF-8 without the flag
        ("蒲公英/1.jpg".encode(), "蒲公英", ""),
        ("Löwenzahn/1.jpg".encode("cp437"), "Löwenzahn", "old code page: 'Löwenzahn/1.jpg'"),
        ("蒲公英/1.jpg".encode("gbk"), "╞╤╣½╙ó", "unknown encoding, shown wrongly: '╞╤╣½╙ó/1.jpg'"),
        ("Löwenzahn/1.jpg".encode("cp1252"), "L÷wenzahn", "unknown encoding"),
    ],
)
def test_a_zip_name_without_the_utf8_flag_is_utf8_else_code_page_437_and_said(
    raw: bytes, label: str, said: str
) -> None:
    warnings: list[str] = []
    (sample,) = read_archive(zip_of_names(raw), LIMITS, warnings.append)
    assert isinstance(sample, Sample) and (sample.label, sample.data) == (label, b"x")
    assert len(warnings) == bool(said)
    assert all(said in warning for warning in warnings)


def test_a_zip_names_unicode_field_goes_before_its_code_page() -> None:
    raw, name = "蒲公英/1.jpg".encode("gbk"), "蒲公英/1.jpg".encode()
    field = b"\1" + zlib.crc32(raw).to_bytes(4, "little") + name
    extra = (0x7075).to_bytes(2, "little") + len(field).to_bytes(2, "little") + field
    warnings: list[str] = []
    (sample,) = read_archive(zip_of_names(raw, extra=extra), LIMITS, warnings.append)
    assert (sample.label, warnings) == ("蒲公英", [])


def test_a_zip_name_marked_utf8_that_is_not_is_refused_by_its_reason() -> None:
    packed = zip_of_names("Löwenzahn/1.jpg".encode("cp1252"), flags=1 << 11)
    with pytest.raises(Invalid) as refused:
        list(read_archive(packed, LIMITS))
    assert "marked as UTF-8 and is not" in refused.value.problems[0].reason


def test_a_tar_name_that_is_not_utf8_is_read_by_a_code_page_and_said() -> None:
    packed = tarred({"L\udcf6wenzahn/1.jpg": b"x"}, "w")
    warnings: list[str] = []
    (sample,) = read_archive(packed, LIMITS, warnings.append)
    assert sample.label == "Löwenzahn"
    assert "'Löwenzahn/1.jpg'" in warnings[0]


@both_kinds
@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (["12:30/1.jpg", "a:b/1.jpg"], ["12:30", "a:b"]),
        (["rose/images/1.jpg", "tulip/images/2.jpg"], ["rose", "tulip"]),
        (["s/n01/images/1.JPEG", "s/n01/box.txt", "s/n02/Images/2.JPEG"], ["n01", "n01", "n02"]),
        (["rose/train/1.jpg", "rose/val/2.jpg", "tulip/train/3.jpg"], ["rose", "rose", "tulip"]),
        (["train/rose/1.jpg", "val/rose/2.jpg"], ["rose", "rose"]),
        (["train/images/1.jpg", "val/images/2.jpg"], ["images", "images"]),
        (["set/photo/1.jpg", "set/drawing/2.jpg"], ["photo", "drawing"]),
        (["rose/images/1.jpg", "rose/images/2.jpg"], ["rose", "rose"]),
        (["set/train/1.jpg", "set/val/2.jpg"], ["train", "val"]),
        (["images/1.jpg"], ["images"]),
        (["rose/images/1.jpg", "tulip/2.jpg"], ["images", "tulip"]),
    ],
)
def test_the_class_is_the_innermost_folder_whose_name_says_something(
    pack, files: list[str], labels: list[str]
) -> None:
    read = list(read_archive(pack(dict.fromkeys(files, b"x")), LIMITS))
    assert [item.label for item in read if isinstance(item, Sample)] == labels


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


def peak_memory(file: io.BytesIO, limits: ArchiveLimits = LIMITS) -> int:
    """Bytes that reading it takes at most; it is refused."""
    tracemalloc.start()
    try:
        with pytest.raises((Invalid, TooLarge)):
            list(read_archive(file, limits))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tar_header(name: str, size: bytes, kind: bytes) -> bytes:
    """A tar header that claims any size: 12 bytes."""
    header = bytearray(tarfile.TarInfo(name).tobuf())
    header[124:136] = size
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_of_64_megabytes_is_not_unpacked(kind: bytes) -> None:
    claim = tar_header("cat/1.jpg", b"%011o\0" % 2**26, kind)
    packed = io.BytesIO(gzip.compress(claim + b"\0" * 2**26, 1))
    assert peak_memory(packed) < 2**22


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("headers", [1, 40])
def test_large_tar_headers_are_refused_by_name_and_fill_no_memory(
    kind: bytes, headers: int
) -> None:
    """Records of a few bytes each become a dictionary of many times their size."""
    records = b"".join(b"12 %07d=\n" % i for i in range(2**21 // 12 // headers))
    one = tar_header("cat/1.jpg", b"%011o\0" % len(records), kind)
    packed = (one + records + b"\0" * (-len(records) % 512)) * headers
    limits = ArchiveLimits(10_000, 2**30, 2**22)
    assert peak_memory(io.BytesIO(packed), limits) < 2**20
    with pytest.raises(TooLarge, match="extended header of more than 65,536 bytes"):
        list(read_archive(io.BytesIO(packed), limits))


def test_usual_tar_headers_are_read() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(50):
            entry = tarfile.TarInfo(f"{'蒲公英' * 50}/{number}.jpg")
            entry.pax_headers = {"SCHILY.xattr.user.note": "x" * 2000}
            archive.addfile(entry)
    read = list(read_archive(stream, ArchiveLimits(50, 2**20, 2**20)))
    assert [item.name for item in read] == [f"{number}.jpg" for number in range(50)]


def test_a_tar_file_of_folders_alone_is_refused_when_they_are_too_many() -> None:
    folders = b"".join(tar_header("cat", b"0" * 11 + b"\0", tarfile.DIRTYPE) for _ in range(11))
    with pytest.raises(TooLarge, match="more than 10 files"):
        list(read_archive(io.BytesIO(folders + b"\0" * 1024), LIMITS))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("claim", [-1, -512, -1024, -(2**40)])
def test_a_tar_header_with_a_size_below_zero_is_refused(kind: bytes, claim: int) -> None:
    header = tar_header("cat/1.jpg", (claim % 2**96).to_bytes(12, "big"), kind)
    with pytest.raises((Invalid, TooLarge)):
        list(read_archive(io.BytesIO((header + b"\0" * 512) * 5), LIMITS))


def test_ten_thousand_tar_headers_in_a_row_are_refused() -> None:
    one = tar_header("x", b"%011o\0" % 512, tarfile.XHDTYPE) + b"9 a=bbb\n" * 64
    with pytest.raises((Invalid, TooLarge)):
        list(read_archive(io.BytesIO(one * 10_000), ArchiveLimits(20_000, 2**30, 2**20)))


def test_a_zip_directory_of_many_entries_is_not_read() -> None:
    few = ArchiveLimits(entries=100, bytes=10_000, file_bytes=4_000)
    packed = zipped({f"cat/{i}.jpg": b"" for i in range(20_000)})
    size = len(packed.getvalue())
    assert peak_memory(packed, few) < size / 10


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_entry_that_would_be_unpacked_all_at_once_is_rejected(method: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("cat/1.jpg", b"\0" * 2**24)
    (rejected,) = read_archive(packed, LIMITS)
    assert isinstance(rejected, Rejected) and "a method that is not read" in rejected.reason


@both_kinds
def test_an_entry_that_cannot_be_unpacked_never_breaks_the_service(pack) -> None:
    whole = pack(GOOD).getvalue()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        with contextlib.suppress(Invalid, TooLarge):
            list(read_archive(io.BytesIO(bytes(changed)), LIMITS))


def test_an_archive_in_an_archive_is_not_read_in_its_stead() -> None:
    """A zip file that ends a tar file looks like the end of a zip file."""
    inner = zipped({"dog/secret.jpg": b"x"}).getvalue()
    (rejected,) = read_archive(tarred({"cat/inner.zip": inner}, "w"), LIMITS)
    assert isinstance(rejected, Rejected) and rejected.file == "cat/inner.zip"


@pytest.mark.parametrize(
    "name", [".", "./", "cat\udc80/1.jpg", "cat/\udcff.jpg", "é" * 3000 + "/a"]
)
def test_odd_names_can_be_shown(name: str) -> None:
    for item in read_archive(tarred({name: b"x"}, "w"), LIMITS):
        shown = item.file if isinstance(item, Rejected) else item.label + item.name
        assert len(shown.encode()) < 2000


def test_devices_pipes_and_sparse_files_are_rejected() -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)
    zero = b"0" * 11 + b"\0"
    entries = b"".join(tar_header(f"cat/{i}.jpg", zero, kind) for i, kind in enumerate(kinds))
    read = list(read_archive(io.BytesIO(entries + b"\0" * 1024), LIMITS))
    assert [type(item) for item in read] == [Rejected] * 4
    assert {item.reason for item in read} == {"a link, a device or a sparse file"}


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
