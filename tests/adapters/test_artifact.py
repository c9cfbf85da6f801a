"""An artifact is read back whole, or refused with the reason."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from adapters.artifact import (
    Artifact,
    Manifest,
    check_clip,
    checksum,
    decode_artifact,
    encode_artifact,
    header_length,
    read_manifest,
    sha256,
)
from adapters.clip import FrozenCLIP
from adapters.errors import BadArtifact
from tests.support.paths import ROOT
from tests.support.random_adapters import random_head, random_weights


@pytest.fixture(scope="module")
def artifact(clip: FrozenCLIP) -> Artifact:
    manifest = Manifest(
        clip=clip.name,
        fingerprint=clip.fingerprint,
        tenant="tenant_1",
        adapter="flowers",
        version=3,
        classes=("rose", "tulip", "Küchenschelle"),
        template="a photo of a {}.",
        logit_scale=31.5,
        image_first=3,
        text_first=2,
        created_at="2026-01-01T00:00:00.000Z",
        info={"metrics": {"adapted": {"accuracy": 0.9}}},
    )
    return Artifact(manifest, random_weights(clip, 1))


@pytest.fixture(scope="module")
def data(artifact: Artifact) -> bytes:
    return encode_artifact(artifact)


def rewritten(data: bytes, tensors: dict | None = None, **changes: object) -> bytes:
    """The file with other tensors or another header, the checksum as it was."""
    return save(tensors or load(data), {"rmadapter": json.dumps(header_of(data) | changes)})


def header_of(data: bytes) -> dict:
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["rmadapter"])


def test_a_file_is_read_back_as_it_was_written(artifact: Artifact, data: bytes) -> None:
    again = decode_artifact(data)
    assert again.manifest == artifact.manifest
    for tower in ("image", "text"):
        for name in ("down", "down_bias", "up", "up_bias"):
            ours, theirs = (getattr(getattr(a.weights, tower), name) for a in (again, artifact))
            assert torch.equal(ours, theirs)


def test_the_same_adapter_gives_the_same_bytes(artifact: Artifact, data: bytes) -> None:
    assert sha256(encode_artifact(artifact)) == sha256(data)


def test_the_file_holds_no_tensor_of_the_reconstruction_branch(data: bytes) -> None:
    parts = ("down", "down_bias", "up", "up_bias")
    assert set(load(data)) == {f"{tower}.{part}" for tower in ("image", "text") for part in parts}


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_cut_short_anywhere_is_refused(data: bytes, part: float) -> None:
    with pytest.raises(BadArtifact):
        decode_artifact(data[: int(len(data) * part)])


def test_a_changed_byte_is_refused_wherever_it_is(data: bytes) -> None:
    for place in range(8, len(data), len(data) // 40):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(BadArtifact):
            decode_artifact(bytes(changed))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 3}, "format version 3; this release reads 1 to 2: a newer release"),
        ({"format_version": 2}, "tensors are not those of an adapter"),
        ({"format_version": None}, "format version None"),
        ({"manifest": "{}"}, "checksum does not match"),
    ],
)
def test_other_headers_are_refused_with_the_reason(
    data: bytes, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(BadArtifact, match=reason):
        decode_artifact(rewritten(data, **changes))


def test_swapped_tensors_are_refused(data: bytes) -> None:
    tensors = load(data)
    tensors["image.down"] = tensors["image.down"] * 2
    with pytest.raises(BadArtifact, match="checksum does not match"):
        decode_artifact(rewritten(data, tensors))


@pytest.mark.parametrize("header", ["[]", "null", "{", "1"])
def test_another_tools_file_is_refused(data: bytes, header: str) -> None:
    for metadata in ({"rmadapter": header}, {"format": "pt"}, None):
        with pytest.raises(BadArtifact, match=r"not an rmadapter artifact|format version"):
            decode_artifact(save(load(data), metadata))


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"\xff" * 8, b"\x80\x04pickle", b"{" * 100])
def test_anything_else_is_refused(junk: bytes) -> None:
    with pytest.raises(BadArtifact):
        decode_artifact(junk)


def resealed(data: bytes, tensors: dict | None = None, **changes: object) -> bytes:
    """The file with another manifest or other tensors, and a checksum that holds."""
    tensors = tensors or load(data)
    manifest = json.dumps(json.loads(header_of(data)["manifest"]) | changes)
    sealed = header_of(data) | {"manifest": manifest, "checksum": checksum(manifest, tensors)}
    return save(tensors, {"rmadapter": json.dumps(sealed)})


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": [1, 2]},
        {"classes": 3},
        {"version": "3"},
        {"version": -1},
        {"version": True},
        {"logit_scale": "31"},
        {"logit_scale": float("nan")},
        {"image_first": 1.5},
        {"adapter": None},
        {"info": []},
        {"unknown": 1},
    ],
)
def test_a_manifest_of_other_types_is_refused_though_its_checksum_holds(
    data: bytes, changes: dict
) -> None:
    decode_artifact(resealed(data))
    with pytest.raises(BadArtifact, match=r"wrong type|lacks a part"):
        decode_artifact(resealed(data, **changes))


@pytest.mark.parametrize("change", ["missing", "more", "half", "flat", "other", "scalar"])
def test_tensors_that_are_not_an_adapters_are_refused(data: bytes, change: str) -> None:
    tensors = load(data)
    down = tensors.pop("image.down")
    if change != "missing":
        other = {"half": down.half(), "flat": down.flatten(), "other": down[..., :1]}
        tensors["image.down"] = other.get(change, down).contiguous()
    if change == "more":
        tensors["more"] = torch.zeros(1)
    if change == "scalar":
        tensors["image.up"] = torch.tensor(1.0)
    sealed = header_of(data)
    with pytest.raises(BadArtifact, match="tensors"):
        decode_artifact(
            save(tensors, {"rmadapter": json.dumps(sealed)})
            if change == "scalar"
            else resealed(data, tensors)
        )


@pytest.fixture(scope="module")
def with_head(artifact: Artifact) -> bytes:
    return encode_artifact(replace(artifact, head=random_head(3)))


def test_a_head_is_read_back_as_it_was_written(artifact: Artifact, with_head: bytes) -> None:
    head, again = random_head(3), decode_artifact(with_head)
    assert again.head is not None
    for name in ("photos", "coefficients", "text"):
        assert torch.equal(getattr(again.head, name), getattr(head, name))
        assert getattr(again.head, name).dtype == getattr(head, name).dtype
    for name in ("text_scale", "gamma", "offset", "scale"):
        assert getattr(again.head, name) == getattr(head, name)
    assert torch.equal(again.weights.image.down, artifact.weights.image.down)
    assert read_manifest(with_head[: header_length(with_head)]) == again.manifest


def test_a_file_with_a_head_is_format_2_and_one_without_is_format_1(
    data: bytes, with_head: bytes
) -> None:
    assert (header_of(data)["format_version"], header_of(with_head)["format_version"]) == (1, 2)
    assert decode_artifact(data).head is None
    assert "head" not in json.loads(header_of(data)["manifest"])  # earlier releases know no such


def test_an_earlier_releases_file_is_read_and_written_again_byte_for_byte() -> None:
    (path,) = (ROOT / "tests/fixtures/format-1").rglob("*.safetensors")
    data = path.read_bytes()
    artifact = decode_artifact(data)
    assert artifact.head is None
    assert encode_artifact(artifact) == data


@pytest.mark.parametrize("place", ["photos", "coefficients", "text"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t[:-1], "sizes that the manifest says"),
        (lambda t: t[:, :-1], "sizes that the manifest says"),
        (lambda t: t.flatten(), "sizes that the manifest says"),
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t * float("inf"), "not finite"),
        (lambda t: t.double(), "not those of an adapter"),
        (lambda t: t.int(), "not those of an adapter"),
        (lambda _: None, "not those of an adapter"),
    ],
)
def test_a_corrupted_head_is_refused_with_the_reason(
    with_head: bytes, place: str, change: Callable[[torch.Tensor], torch.Tensor | None], reason: str
) -> None:
    tensors = load(with_head)
    changed = change(tensors.pop(f"head.{place}"))
    if changed is not None:
        tensors[f"head.{place}"] = changed.contiguous()
    with pytest.raises(BadArtifact, match=reason):
        decode_artifact(resealed(with_head, tensors))


@pytest.mark.parametrize(
    "changes",
    [
        {"photos": 0},
        {"photos": 6.0},
        {"width": True},
        {"gamma": float("nan")},
        {"gamma": -1.0},
        {"scale": "8"},
        {"text_scale": float("inf")},
        {"offset": None},
        {"unknown": 1},
    ],
)
def test_a_heads_numbers_of_other_types_are_refused(with_head: bytes, changes: dict) -> None:
    head = json.loads(header_of(with_head)["manifest"])["head"]
    decode_artifact(resealed(with_head, head=head))
    with pytest.raises(BadArtifact, match="wrong type"):
        decode_artifact(resealed(with_head, head=head | changes))


@pytest.mark.parametrize("head", [None, [], 1, "x", {}])
def test_half_of_a_head_is_refused(data: bytes, with_head: bytes, head: object) -> None:
    with pytest.raises(BadArtifact, match=r"half of a head|wrong type"):
        decode_artifact(resealed(with_head, head=head))
    numbers = json.loads(header_of(with_head)["manifest"])["head"]
    with pytest.raises(BadArtifact, match="half of a head"):
        decode_artifact(resealed(data, head=numbers))


def test_a_head_of_other_classes_than_the_manifests_is_refused(with_head: bytes) -> None:
    with pytest.raises(BadArtifact, match="sizes that the manifest says"):
        decode_artifact(resealed(with_head, classes=["rose", "tulip"]))


def test_the_digest_covers_the_head(artifact: Artifact, with_head: bytes) -> None:
    other = replace(artifact, head=replace(random_head(3), offset=0.5))
    assert sha256(encode_artifact(other)) != sha256(with_head)


def claiming(length: int, header: bytes) -> bytes:
    return length.to_bytes(8, "little") + header


@pytest.mark.parametrize("length", [2**20, 2**34, 2**63, 2**64 - 1])
def test_a_header_that_claims_more_than_there_is_is_refused_at_once(length: int) -> None:
    tracemalloc.start()
    with pytest.raises(BadArtifact, match="cut short"):
        decode_artifact(claiming(length, b"{}" * 100))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 2**20,
        b'{"__metadata__":' * 2**16,
        b'{"__metadata__":{"rmadapter":"' + b"[" * 2**20 + b'"}}',
        b'{"__metadata__":{"rmadapter":"' + b"x" * 17 * 2**20 + b'"}}',
        b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
    ],
    ids=["nested", "nested objects", "nested metadata", "long metadata", "overflow"],
)
def test_a_hostile_header_is_refused(header: bytes) -> None:
    with pytest.raises(BadArtifact):
        decode_artifact(claiming(len(header), header))


@pytest.mark.parametrize("shape", [[2**62, 4], [2**40], [-1], [0], [1.5], "x", [[1]]], ids=str)
def test_a_tensor_that_claims_another_size_than_its_bytes_is_refused(
    data: bytes, shape: object
) -> None:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["image.down"]["shape"] = shape
    lying = json.dumps(header).encode()
    with pytest.raises(BadArtifact):
        decode_artifact(claiming(len(lying), lying) + data[8 + length :])


def test_an_adapter_of_another_clip_is_refused_naming_both(
    artifact: Artifact, clip: FrozenCLIP
) -> None:
    check_clip(artifact.manifest, clip)
    with pytest.raises(BadArtifact, match=r"was fitted on ViT-B-16/openai .*, not on bundled"):
        other = replace(artifact.manifest, clip="ViT-B-16/openai", fingerprint="0" * 64)
        check_clip(other, clip)
