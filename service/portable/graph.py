"""Pixels → probabilities as one ONNX graph: the image tower with its adapter, classes, and head."""

import warnings
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.artifact import Artifact
from adapters.bank import one_adapter
from adapters.classify import prompts, scores
from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from adapters.evidence import judge

_BATCH = torch.export.Dim("B", min=1, max=2**16)
_PROMPTS = 64  # read at once
_MOST_BYTES = 2**31 - 1  # of one ONNX file: protobuf's limit


class CannotQuantise(RMAdapterError):
    """What puts a graph into eight bits is not installed."""


class TooLargeToExport(RMAdapterError):
    """The image tower does not go into one ONNX file."""


def write_graph(clip: FrozenCLIP, artifact: Artifact, file: Path) -> Path:
    """Writes a version's graph in float32.

    Args:
        clip: the CLIP that it was fitted on, in float32.
        artifact: the version.
        file: gets the graph: `pixels`, uint8 [B, 3, S, S] → `probabilities`, float32 [B, C], and
            `features`, float32 [B, e].

    Returns:
        The file.

    Raises:
        TooLargeToExport: the tower is over 2 GB.
    """
    size = sum(p.numel() for p in clip.model.visual.parameters()) * 4
    if size > _MOST_BYTES:
        raise TooLargeToExport(f"{clip.name}'s image tower has {size:,} bytes; ONNX takes 2 GB")
    pixels = torch.zeros(2, 3, clip.spec.size, clip.spec.size, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, of its own dependencies
        program = torch.onnx.export(
            _Whole(clip, artifact).eval(),
            (pixels,),
            input_names=["pixels"],
            output_names=["probabilities", "features"],
            dynamic_shapes=({0: _BATCH},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file, external_data=False)
    return file


def write_int8(graph: Path, file: Path) -> Path:
    """Puts the tower's matrix products into eight bits; what follows the features stays exact.

    Args:
        graph: as `write_graph` wrote it.
        file: gets the smaller graph.

    Returns:
        The file.

    Raises:
        CannotQuantise: onnxruntime is not installed.
    """
    try:
        from service.inference.onnx_backend import quantise
    except ImportError as error:
        raise CannotQuantise("int8 needs onnxruntime: pip install 'rmadapter[cpu]'") from error
    quantise(graph, file, _after_features(onnx.load(graph, load_external_data=False).graph))
    return file


def _after_features(graph: onnx.GraphProto) -> list[str]:
    reached, names = {"features"}, list[str]()
    for node in graph.node:  # in the order of running
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


class _Whole(nn.Module):
    def __init__(self, clip: FrozenCLIP, artifact: Artifact) -> None:
        super().__init__()
        self.clip, self.model, self.artifact = clip, clip.model, artifact
        self.text = _class_features(clip, artifact)  # [C, e]
        self.head = artifact.head.float() if artifact.head else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.artifact.weights.image
        tokens = self.clip.image_lower(pixels, weights.first)
        features = self.clip.image_upper(tokens, weights.first, one_adapter(weights))
        if self.head is None:
            scale = self.artifact.manifest.logit_scale
            return scores(features, self.text, scale), features
        found = judge(replace(self.head, text=self.text), features)
        return F.softmax(self.head.scale * found, dim=1), features


@torch.no_grad()
def _class_features(clip: FrozenCLIP, artifact: Artifact) -> Tensor:
    """The features of the classes' names, as the service makes them: float32 [C, e]."""
    manifest, weights = artifact.manifest, artifact.weights.text
    first, delta = weights.first, one_adapter(weights)
    ids = clip.tokenize(prompts(manifest.classes, manifest.template)).split(_PROMPTS)
    rows = [clip.text_upper(clip.text_lower(some, first), some, first, delta) for some in ids]
    return torch.cat(rows).float()
