"""A version as a zip that runs without this service: pixels → probabilities, in one ONNX file."""

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from adapters.artifact import Artifact, check_clip
from adapters.clip import FrozenCLIP
from service.portable.graph import write_graph, write_int8
from service.portable.licences import Licence

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Portable:
    """What goes into the zip beside the graph."""

    artifact: Artifact
    digest: str  # SHA-256 of the artifact's file
    licence: Licence  # of the CLIP's weights
    int8: bool = False


def write_portable(clip: FrozenCLIP, portable: Portable, file: Path) -> None:
    """Writes the zip; the file appears when it is whole.

    Args:
        clip: the CLIP that the adapter was fitted on, in float32.
        portable: the version, and what is said of it.
        file: where the zip goes.

    Raises:
        BadArtifact: the adapter was fitted on another CLIP.
    """
    check_clip(portable.artifact.manifest, clip)
    with tempfile.TemporaryDirectory(dir=file.absolute().parent) as unfinished:
        folder = Path(unfinished)
        graph = write_graph(clip, portable.artifact, folder / "model.onnx")
        if portable.int8:
            graph = write_int8(graph, folder / "int8.onnx")
        whole = folder / "whole.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(graph, "model.onnx")
            for name, content in _texts(clip, portable).items():
                archive.writestr(name, content)
        whole.rename(file)


def _texts(clip: FrozenCLIP, portable: Portable) -> dict[str, str]:
    manifest, spec = portable.artifact.manifest, clip.spec
    preprocessing = {
        "size": spec.size,
        "interpolation": spec.interpolation,
        "resize": "the shortest side to size, then the centre is cropped",
        "input": f"uint8 [B, 3, {spec.size}, {spec.size}], sRGB; the graph scales and normalises",
    }
    about = {
        "adapter": manifest.adapter,
        "version": manifest.version,
        "artifact_sha256": portable.digest,
        "model": manifest.clip,
        "template": manifest.template,
        "created_at": manifest.created_at,
        "int8": portable.int8,
        "licence_of_the_weights": portable.licence.name,
    }
    return {
        "labels.json": json.dumps(list(manifest.classes), ensure_ascii=False, indent=2),
        "preprocessing.json": json.dumps(preprocessing, indent=2),
        "about.json": json.dumps(about, indent=2),
        "LICENCE-WEIGHTS.txt": portable.licence.text,
        "predict.py": (_HERE / "predict.py").read_text(),
        "index.html": (_HERE / "index.html").read_text(),
    }
