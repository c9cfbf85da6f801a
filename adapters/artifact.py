"""An adapter as one safetensors file: the adaptation branch, and a header that describes it.

The header's metadata has one entry, `rmadapter`, so that the same adapter gives the same bytes:
JSON with `format_version`, `manifest` (JSON text) and `checksum`, the SHA-256 of manifest and
tensors. Pickle is never used. A file is not used before its checksum, its CLIP and its shapes
are verified.

Format 1 holds only an adapter. Format 2 also holds a head (`adapters.evidence`), whose scalars are
in the manifest's `head`. A file without a head is written as format 1, which every release reads.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adapters.bank import AdapterWeights, TowerWeights
from adapters.clip import FrozenCLIP
from adapters.errors import BadArtifact
from adapters.evidence import Evidence

FORMAT, FORMAT_VERSION = "rmadapter", 2
_MAX_HEADER = 16 * 2**20  # bytes; 1,000 classes with their confusion matrix take 4 MB
_TENSORS = ("down", "down_bias", "up", "up_bias")
_TOWERS = ("image", "text")
_NAMES = {f"{tower}.{name}" for tower in _TOWERS for name in _TENSORS}
_HEAD_TENSORS = ("photos", "coefficients", "text")
_HEAD_NUMBERS = ("text_scale", "gamma", "offset", "scale")
_MOST = 1e6  # the largest scalar of a head; a comparison with it also rejects NaN
_HEAD_NAMES = {f"head.{name}" for name in _HEAD_TENSORS}
_DTYPES = {  # float32 where float16 coefficients would change an answer
    f"head.{name}": {torch.float16, torch.float32} for name in _HEAD_TENSORS
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description in a file's header.

    `info` holds what this module does not read: job, data digest, settings, metrics.
    """

    clip: str  # the CLIP's name, for people
    fingerprint: str  # SHA-256 of the CLIP's weights, for machines
    tenant: str
    adapter: str
    version: int
    classes: tuple[str, ...]
    template: str
    logit_scale: float  # 1/τ, after the temperature was fitted
    image_first: int
    text_first: int
    created_at: str  # ISO 8601, UTC
    info: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] | None = None  # its scalars, the number of photos, the feature width


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest, the adaptation branch with α folded in, and the head, if there is one."""

    manifest: Manifest
    weights: AdapterWeights
    head: Evidence | None = None


def encode_artifact(artifact: Artifact) -> bytes:
    """The file's bytes."""
    tensors = {
        f"{tower}.{name}": getattr(getattr(artifact.weights, tower), name).contiguous()
        for tower in _TOWERS
        for name in _TENSORS
    }
    head, plain = artifact.head, {n: getattr(artifact.manifest, n) for n in Manifest.__slots__}
    del plain["head"]
    if head is not None:
        tensors |= {f"head.{name}": getattr(head, name).contiguous() for name in _HEAD_TENSORS}
        numbers = {name: getattr(head, name) for name in _HEAD_NUMBERS}
        plain["head"] = numbers | {"photos": len(head.photos), "width": head.photos.shape[1]}
    manifest = json.dumps(plain)
    header = {
        "format_version": 1 if head is None else 2,
        "checksum": checksum(manifest, tensors),
        "manifest": manifest,
    }
    return save(tensors, {FORMAT: json.dumps(header)})


def decode_artifact(data: bytes) -> Artifact:
    """Reads and verifies a file.

    Raises:
        BadArtifact: the file is cut short, changed, or of an unknown format.
    """
    header = _header(data)
    version = header.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        newer = type(version) is int and version > FORMAT_VERSION
        raise BadArtifact(
            f"the file has format version {version}; this release reads 1 to {FORMAT_VERSION}"
            + (": a newer release wrote it, and is needed to read it" if newer else "")
        )
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise BadArtifact("the file is cut short or changed") from error
    expected = _NAMES if version == 1 else _NAMES | _HEAD_NAMES
    if set(tensors) != expected or any(
        t.dtype not in _DTYPES.get(name, {torch.float32}) or not t.dim()
        for name, t in tensors.items()
    ):
        raise BadArtifact("the file's tensors are not those of an adapter")
    manifest = str(header.get("manifest"))
    if header.get("checksum") != checksum(manifest, tensors):
        raise BadArtifact("the file's checksum does not match: it was changed")
    return _artifact(manifest, tensors)


def check_clip(manifest: Manifest, clip: FrozenCLIP) -> None:
    """Raises BadArtifact unless the adapter was fitted on exactly this CLIP."""
    if manifest.fingerprint != clip.fingerprint:
        raise BadArtifact(
            f"{manifest.adapter} version {manifest.version} was fitted on {manifest.clip}"
            f" ({manifest.fingerprint[:12]}), not on {clip.name} ({clip.fingerprint[:12]})"
        )
    if manifest.head is not None and manifest.head["width"] != clip.embed_dim:
        raise BadArtifact(
            f"{manifest.adapter} version {manifest.version} has a head for features of"
            f" {manifest.head['width']} numbers; those of {clip.name} have {clip.embed_dim}"
        )


def sha256(data: bytes) -> str:
    """The whole file's digest, 64 hex digits. An answer names its weights by this digest."""
    return hashlib.sha256(data).hexdigest()


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise BadArtifact("the file is cut short or not a safetensors file")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadArtifact("the file is not an rmadapter artifact") from error
    if not isinstance(header, dict):
        raise BadArtifact("the file is not an rmadapter artifact")
    return header


def header_length(head: bytes) -> int:
    """The length of a file's header in bytes, read from the file's first 8 bytes.

    Raises:
        BadArtifact: the file is not safetensors, or its header is longer than allowed.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > _MAX_HEADER:
        raise BadArtifact("the file is cut short or not a safetensors file")
    return 8 + length


def read_manifest(head: bytes) -> Manifest:
    """The manifest in a file's first `header_length` bytes; nothing else of the file is checked.

    Raises:
        BadArtifact: the header cannot be read.
    """
    return _manifest(str(_header(head).get("manifest")))


def _manifest(manifest_json: str) -> Manifest:
    try:
        plain = json.loads(manifest_json)
        return Manifest(**(plain | {"classes": tuple(plain["classes"])}))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadArtifact(f"the file lacks a part: {error}") from error


def _artifact(manifest_json: str, tensors: dict[str, Tensor]) -> Artifact:
    manifest = _manifest(manifest_json)
    try:
        first = {"image": manifest.image_first, "text": manifest.text_first}
        towers = {
            tower: TowerWeights(first[tower], *(tensors[f"{tower}.{name}"] for name in _TENSORS))
            for tower in _TOWERS
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadArtifact(f"the file lacks a part: {error}") from error
    if not _typed(manifest):
        raise BadArtifact("the file's manifest has a part of the wrong type")
    if not all(_consistent(weights) for weights in towers.values()):
        raise BadArtifact("the file's tensors do not belong together")
    return Artifact(manifest, AdapterWeights(**towers), _head(manifest, tensors))


def _head(manifest: Manifest, tensors: dict[str, Tensor]) -> Evidence | None:
    """The head, after its scalars, its sizes and the finiteness of its values are checked."""
    numbers, parts = manifest.head, {name: tensors.get(f"head.{name}") for name in _HEAD_TENSORS}
    if numbers is None and parts["photos"] is None:
        return None
    if numbers is None or parts["photos"] is None:
        raise BadArtifact("the file has half of a head")
    photos, classes, width = numbers["photos"], len(manifest.classes), numbers["width"]
    shapes = {
        "photos": (photos, width),
        "coefficients": (photos, classes),
        "text": (classes, width),
    }
    whole = {name: part for name, part in parts.items() if part is not None}
    if any(tuple(whole[name].shape) != shape for name, shape in shapes.items()):
        raise BadArtifact("the head's tensors are not of the sizes that the manifest says")
    if not all(bool(part.isfinite().all()) for part in whole.values()):
        raise BadArtifact("the head's tensors hold numbers that are not finite")
    return Evidence(
        photos=whole["photos"],
        coefficients=whole["coefficients"],
        text=whole["text"],
        text_scale=float(numbers["text_scale"]),
        gamma=float(numbers["gamma"]),
        offset=float(numbers["offset"]),
        scale=float(numbers["scale"]),
    )


def _typed(manifest: Manifest) -> bool:
    """Whether the manifest's fields have the types that the code expects."""
    texts = ("clip", "fingerprint", "tenant", "adapter", "template", "created_at")
    numbers = (manifest.version, manifest.image_first, manifest.text_first)
    return (
        all(isinstance(getattr(manifest, name), str) for name in texts)
        and all(isinstance(name, str) for name in manifest.classes)
        and all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(manifest.logit_scale, float | int)
        and math.isfinite(manifest.logit_scale)
        and isinstance(manifest.info, dict)
        and (manifest.head is None or _typed_head(manifest.head))
    )


def _typed_head(head: Any) -> bool:
    """Whether sizes are positive integers and scales are finite and not negative."""
    if not isinstance(head, dict) or set(head) != {*_HEAD_NUMBERS, "photos", "width"}:
        return False
    if not all(type(head[name]) is int and head[name] > 0 for name in ("photos", "width")):
        return False
    numbers = [head[name] for name in _HEAD_NUMBERS]
    if not all(type(number) in (int, float) and abs(number) <= _MOST for number in numbers):
        return False
    return all(head[name] >= 0 for name in _HEAD_NUMBERS if name != "offset")


def _consistent(weights: TowerWeights) -> bool:
    if weights.down.dim() != 3:
        return False
    n, d, r = weights.down.shape
    shapes = [tuple(getattr(weights, name).shape) for name in _TENSORS]
    return shapes == [(n, d, r), (n, r), (n, r, d), (n, d)]


def checksum(manifest: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a manifest's text and of tensors by their names, in hexadecimal."""
    digest = hashlib.sha256(manifest.encode())
    for key in sorted(tensors):
        digest.update(f"{key}{tuple(tensors[key].shape)}{tensors[key].dtype}".encode())
        digest.update(tensors[key].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
