"""Every row of the contract's table of bad input, and bodies that are not read to their end."""

import base64
import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from service.client import Client
from tests.support.api import problem
from tests.support.bodies import MIB


def picture(width: int = 40, height: int = 30, kind: str = "PNG", seed: int = 0) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 90)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- not an image, cut short, zero bytes, a bomb, more pixels or bytes than the limit ---

BAD_PICTURES = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "not a picture in a known format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a known format"),
    "pickle": (b"\x80\x04\x95.", "not a picture in a known format"),
    "cut": (picture()[:1000], "broken or cut short"),
    "bomb": (png_that_claims(60_000, 60_000), "pixels"),
    "pixels": (png_that_claims(2_001, 2_000), "2001×2000 is more than 4,000,000 pixels"),
    "bytes": (picture() + b"\0" * 20 * MIB, "more than the 20,971,520 allowed"),
    "lying": (png_that_claims(1_000, 1_000), "broken or cut short"),
    "strip": (picture(1, 300), "too narrow a strip"),
}
bad_pictures = pytest.mark.parametrize(
    ("data", "reason"), BAD_PICTURES.values(), ids=list(BAD_PICTURES)
)


@bad_pictures
def test_a_bad_picture_is_rejected_with_its_reason_and_the_good_one_stored(
    tenant: Client, dataset: str, data: bytes, reason: str
) -> None:
    answer = tenant.call(
        "POST",
        f"/v1/datasets/{dataset}/images",
        data={"label": "x"},
        files=[("files", ("bad.jpg", data)), ("files", ("good.png", picture()))],
    )
    assert answer["accepted"] == 1
    (rejected,) = answer["rejected"]
    assert rejected["file"] == "x/bad.jpg"
    assert reason in rejected["reason"]


@bad_pictures
def test_a_bad_picture_of_an_archive_is_rejected_with_its_reason(
    tenant: Client, dataset: str, data: bytes, reason: str
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/bad.jpg", data)
        archive.writestr("x/good.png", picture())
    files = {"archive": ("a.zip", stream.getvalue())}
    answer = tenant.call("POST", f"/v1/datasets/{dataset}/images", files=files)
    assert answer["accepted"] == 1
    assert answer["rejected"][0]["file"] == "x/bad.jpg"
    if data is not BAD_PICTURES["bytes"][0]:  # not even unpacked
        assert reason in answer["rejected"][0]["reason"]


@bad_pictures
def test_a_bad_picture_among_good_ones_is_an_entry_with_its_error(
    tenant: Client, data: bytes, reason: str
) -> None:
    answer = tenant.classify([("good", picture()), ("bad", data)], ["a", "b"])
    good, bad = answer["results"]
    assert (good["error"], bad["label"], bad["predictions"]) == (None, None, [])
    assert reason in bad["error"]


@bad_pictures
def test_a_bad_picture_as_a_data_uri_is_422(tenant: Client, data: bytes, reason: str) -> None:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    response = tenant.http.post("/v1/embeddings", json={"input": ["a", uri]})
    (error,) = problem(response, 422)["errors"]
    assert error["field"] == "input[1]"
    assert reason in error["reason"] or error["reason"] == "not base64"


# --- archives ---


def tar_with(entry: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(entry)
        good = tarfile.TarInfo("x/good.png")
        good.size = len(picture())
        archive.addfile(good, io.BytesIO(picture()))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("../x/a.png", tarfile.REGTYPE, "leads out"),
        ("/x/a.png", tarfile.REGTYPE, "leads out"),
        ("x/a.zip", tarfile.REGTYPE, "an archive in the archive"),
        ("x/a.png", tarfile.SYMTYPE, "a link"),
        ("x/a.png", tarfile.LNKTYPE, "a link"),
        ("x/a.png", tarfile.CHRTYPE, "a link"),
        ("x/\udcff\udcfe.png", tarfile.REGTYPE, "empty"),
    ],
)
def test_an_archives_bad_entry_is_rejected_and_the_rest_is_stored(
    tenant: Client, dataset: str, name: str, kind: bytes, reason: str
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    files = {"archive": ("a.tar.gz", tar_with(entry))}
    answer = tenant.call("POST", f"/v1/datasets/{dataset}/images", files=files)
    assert answer["accepted"] == 1
    assert reason in answer["rejected"][0]["reason"]


def test_an_archive_that_breaks_off_leaves_nothing(tenant: Client) -> None:
    dataset = tenant.create_dataset("half")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i in range(5):
            entry = tarfile.TarInfo(f"x/{i}.png")
            entry.size = len(picture(seed=i))
            archive.addfile(entry, io.BytesIO(picture(seed=i)))
    half = stream.getvalue()[: 3 * entry.size]
    files = {"archive": ("a.tar", half)}
    problem(tenant.http.post(f"/v1/datasets/{dataset}/images", files=files), 422)
    assert tenant.call("GET", f"/v1/datasets/{dataset}")["images"] == 0


# --- classes ---


@pytest.mark.parametrize(
    "classes",
    [
        b'["\\ud800", "a"]',
        b"[" * 100_000,
        b'["a"' + b', "b"' * 2_000 + b"]",
        b'["\\u0000", "a"]',
        b"[null]",
        b"[[]]",
        b"{}",
    ],
    ids=["surrogate", "nested", "too many", "nul", "null", "list", "object"],
)
def test_class_names_that_cannot_be_used_are_422(tenant: Client, classes: bytes) -> None:
    files = [("files", ("a", picture()))]
    form = tenant.http.post("/classify", data={"classes": classes.decode()}, files=files)
    if classes in (b'["\\u0000", "a"]', b"{}"):  # names like any others: "{}" is one
        assert form.status_code in (200, 422)
    else:
        problem(form, 422)
    image = base64.b64encode(picture()).decode()
    body = b'{"images": [{"b64": "%b"}], "classes": %b}' % (image.encode(), classes)
    headers = {"content-type": "application/json"}
    response = tenant.http.post("/classify", content=body, headers=headers)
    assert response.status_code in ((200, 422) if b"u0000" in classes else (422,))


@pytest.mark.parametrize("name", ["\ud800", "\x00", "a\x00b", "", " ", "x" * 101])
def test_names_that_cannot_be_used_are_422(tenant: Client, name: str) -> None:
    headers = {"content-type": "application/json"}
    for path, field in (("/v1/datasets", "name"), ("/v1/jobs", "adapter")):
        body = json.dumps({field: name} | ({"dataset": "d"} if field == "adapter" else {}))
        response = tenant.http.post(path, content=body, headers=headers)
        if "\x00" in name and field == "name":
            assert response.status_code in (201, 422)
        else:
            problem(response, 422)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.png", "file:///etc/passwd", "ftp://x/y"])
def test_addresses_are_words_and_never_fetched(tenant: Client, url: str) -> None:
    """What a client names is classified as text or refused; nothing is opened for it."""
    answer = tenant.call("POST", "/v1/embeddings", json={"input": url})
    assert answer["usage"]["prompt_tokens"] > 2
    body = {"images": [{"b64": url}], "classes": ["a"]}
    problem(tenant.http.post("/classify", json=body), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "\ud800"}),
        ("/v1/embeddings", {"input": ["a", "\ud800"]}),
        ("/v1/embeddings", {"input": "a", "adapter": "\ud800"}),
        ("/v1/jobs", {"dataset": "\ud800", "adapter": "a"}),
        ("/v1/jobs", {"dataset": "d", "adapter": "a", "params": {"template": "\ud800 {}"}}),
        ("/v1/keys", {"scope": "\ud800"}),
        ("/classify", {"images": [{"b64": "", "file": "\ud800"}], "classes": ["a"]}),
        ("/v1/datasets", {"\ud800": 1}),
    ],
)
def test_half_a_character_is_422_wherever_it_is(tenant: Client, path: str, body: dict) -> None:
    headers = {"content-type": "application/json"}
    response = tenant.http.post(path, content=json.dumps(body), headers=headers)
    problem(response, 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "word " * 201}),
        ("/v1/embeddings", {"input": ["a", "日" * 1001]}),
        ("/classify", {"images": [{"b64": ""}], "classes": ["a", "x" * 1001]}),
    ],
)
def test_a_text_far_past_what_clip_reads_is_422_before_it_is_made_tokens(
    tenant: Client, path: str, body: dict
) -> None:
    assert "1000 characters" in json.dumps(problem(tenant.http.post(path, json=body), 422))
