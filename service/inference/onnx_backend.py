"""ONNX Runtime as a backend.

The bank's tensors are inputs of the graphs, bound where they lie. So a swap is a write to memory
and never a new session.

The graphs are float32 and made from the torch model at the first use, then kept in a folder named
by the weights' fingerprint. A list of their SHA-256 lies beside them: what does not agree with it
is made anew, and never loaded.
"""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from adapters.bank import Bank, TowerBank, gathered
from adapters.clip import FrozenCLIP
from adapters.errors import UnsupportedModel
from adapters.pixels import Pixels
from service.inference.hashes import hold, write_hashes
from service.inference.protocol import Features
from service.inference.torch_backend import TorchBackend, as_array

log = logging.getLogger(__name__)

_FORMAT = 2  # counted up when the graphs change, so that older files are not taken for them
_HASHES = "sha256.json"
_BANK = ("down", "down_bias", "up", "up_bias")
_BATCH, _SLOTS, _LENGTH = (torch.export.Dim(n, min=2, max=2**16) for n in ("B", "S", "L"))


class OnnxBackend(TorchBackend):
    """Pictures, and the upper blocks of prompts, by ONNX Runtime; the rest is the torch backend's.

    With `int8` the frozen weights of the image tower's matrix products have eight bits. A run
    scales their inputs to eight bits by its largest value. Each picture is therefore a separate
    run, so that its features do not depend on another tenant's picture.

    Raises:
        UnsupportedModel: the weights are not in float32.
        whatever the export or ONNX Runtime raises for a model or a device that it does not take.
    """

    name = "onnx"

    def __init__(
        self,
        clip: FrozenCLIP,
        bank: Bank,
        cache_dir: Path,
        prompts: int = 10_000,
        int8: bool = False,
    ) -> None:
        if clip.precision != "fp32":
            raise UnsupportedModel(
                f"ONNX Runtime's graphs are in float32, and the weights in {clip.precision}"
            )
        super().__init__(clip, bank, prompts)
        files = exported(clip, bank, cache_dir)
        image = in_int8(files / "image.onnx") if int8 else files / "image.onnx"
        self._image = _Session(image, clip.device, clip.embed_dim)
        self._text = _Session(files / "text.onnx", clip.device, clip.embed_dim)
        self._alone = int8
        if int8:
            self.name = "onnx-int8"

    def images(self, pixels: Sequence[Pixels], slots: Sequence[int]) -> Features:
        """See `Backend.images`."""
        rows = torch.from_numpy(np.stack(pixels))
        if not self._alone:
            return self._image({"pixels": rows}, slots, self._bank.image)
        runs = zip(rows.split(1), slots, strict=True)
        parts = [self._image({"pixels": row}, [slot], self._bank.image) for row, slot in runs]
        return np.concatenate(parts)

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], slots: Sequence[int]) -> Features:
        """See `Backend.texts`."""
        tokens, ids = self._lower_text(prompts)
        return self._text({"tokens": tokens, "ids": ids}, slots, self._bank.text)


class _Session:
    """One graph, its inputs and outputs bound to torch's memory on the device."""

    def __init__(self, file: Path, device: torch.device, width: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin on after each batch keep the cores from decoding and HTTP.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            onnxruntime.preload_dlls()  # from NVIDIA's wheels, which no library path names
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        self._session = onnxruntime.InferenceSession(file, options, providers)
        if self._session.get_providers()[0] != providers[0][0] and device.type == "cuda":
            raise RuntimeError("this ONNX Runtime has no CUDA provider")
        self._device, self._width = device, width

    def __call__(self, rows: dict[str, Tensor], slots: Sequence[int], bank: TowerBank) -> Features:
        inputs = rows | {"slots": torch.tensor(slots)}
        inputs |= dict(zip(_BANK, bank.tensors(), strict=True))
        binding = self._session.io_binding()
        held = [self._bind(binding, name, tensor) for name, tensor in inputs.items()]
        out = torch.empty(len(slots), self._width, device=self._device)
        binding.bind_output("features", *self._place(), np.float32, out.shape, out.data_ptr())
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # torch's writes, before another stream reads
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        del held  # until here ONNX Runtime read them
        return as_array(out)

    def _bind(self, binding: Any, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._device).contiguous()
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        binding.bind_input(name, *self._place(), kind, tensor.shape, tensor.data_ptr())
        return tensor

    def _place(self) -> tuple[str, int]:
        return self._device.type, self._device.index or 0


def exported(clip: FrozenCLIP, bank: Bank, cache_dir: Path) -> Path:
    """The folder of a model's two graphs, which are exported now if they do not exist."""
    place = f"{clip.fingerprint[:16]}-{bank.image.first}-{bank.text.first}"
    folder = cache_dir / "onnx" / f"{place}-v{_FORMAT}-torch{torch.__version__}"
    if hold(folder / _HASHES):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        log.error("the graphs in %s are not as they were exported: they are made anew", folder)
        _put_away(folder)
    log.warning("exporting %s to ONNX, once, to %s", clip.name, folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        whole = Path(unfinished) / "whole"
        whole.mkdir()
        _export_images(clip, bank.image, whole / "image.onnx")
        _export_texts(clip, bank.text, whole / "text.onnx")
        write_hashes(whole / _HASHES, sorted(whole.iterdir()))
        try:
            whole.rename(folder)
        except OSError:  # another process was faster
            if not hold(folder / _HASHES):
                raise
    return folder


def _put_away(folder: Path) -> None:
    """Deletes the folder, which is gone from its place at once."""
    aside = tempfile.TemporaryDirectory(dir=folder.parent)
    with aside, suppress(FileNotFoundError):  # another process was faster
        folder.rename(Path(aside.name) / folder.name)


def in_int8(graph: Path) -> Path:
    """The graph with eight-bit matrix products, which is made now if it does not exist."""
    quantised = graph.with_name(f"{graph.stem}-int8.onnx")
    hashes = quantised.with_suffix(f".{_HASHES}")
    if hold(hashes):
        return quantised
    if hashes.exists():
        log.error("%s is not as it was made: it is made anew", quantised)
    log.warning("putting %s into eight bits, once", graph)
    with tempfile.TemporaryDirectory(dir=graph.parent) as unfinished:
        made = Path(unfinished) / quantised.name
        quantise(graph, made)
        write_hashes(made.with_name(hashes.name), [made])
        made.rename(quantised)
        made.with_name(hashes.name).rename(hashes)
    return quantised


def quantise(graph: Path, file: Path, exact: Sequence[str] = ()) -> None:
    """Writes a graph with its matrix products in eight bits.

    Args:
        graph: in float32.
        file: the graph to write.
        exact: names of nodes that stay as they are.
    """
    from onnxruntime.quantization import quantize_dynamic  # only int8 needs it

    logging.disable(logging.WARNING)  # the quantiser's notes, a line a tensor
    try:
        products, kept = ["MatMul", "Gemm"], list(exact)
        quantize_dynamic(graph, file, products, per_channel=True, nodes_to_exclude=kept)
    finally:
        logging.disable(logging.NOTSET)


class _Images(nn.Module):
    def __init__(self, clip: FrozenCLIP, first: int) -> None:
        super().__init__()
        self.clip, self.first, self.model = clip, first, clip.model

    def forward(self, pixels: Tensor, slots: Tensor, *bank: Tensor) -> Tensor:
        tokens = self.clip.image_lower(pixels, self.first)
        return self.clip.image_upper(tokens, self.first, gathered(slots, self.first, bank))  # type: ignore[arg-type]


class _Texts(nn.Module):
    def __init__(self, clip: FrozenCLIP, first: int) -> None:
        super().__init__()
        self.clip, self.first, self.model = clip, first, clip.model

    def forward(self, tokens: Tensor, ids: Tensor, slots: Tensor, *bank: Tensor) -> Tensor:
        delta = gathered(slots, self.first, bank)  # type: ignore[arg-type]
        return self.clip.text_upper(tokens, ids, self.first, delta)


def _export_images(clip: FrozenCLIP, bank: TowerBank, file: Path) -> None:
    size = clip.spec.size
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8, device=clip.device)
    module = _Images(clip, bank.first)
    _export(module, {"pixels": pixels}, ({0: _BATCH},), bank, file)


def _export_texts(clip: FrozenCLIP, bank: TowerBank, file: Path) -> None:
    ids = clip.tokenize(["a photo of a cat.", "a dog"]).to(clip.device)
    tokens = torch.zeros(*ids.shape, clip.text.width, device=clip.device)
    module = _Texts(clip, bank.first)
    shapes = ({0: _BATCH, 1: _LENGTH}, {0: _BATCH, 1: _LENGTH})
    _export(module, {"tokens": tokens, "ids": ids}, shapes, bank, file)


@torch.no_grad()
def _export(
    module: nn.Module,
    rows: dict[str, Tensor],
    shapes: tuple[dict[int, Any], ...],
    bank: TowerBank,
    file: Path,
) -> None:
    """Writes the graph; the numbers of rows, of slots and of tokens stay open."""
    slots = torch.tensor([0, 1], device=bank.down.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own dependencies
        program = torch.onnx.export(
            module.eval(),
            (*rows.values(), slots, *bank.tensors()),
            input_names=[*rows, "slots", *_BANK],
            output_names=["features"],
            dynamic_shapes=(*shapes, {0: _BATCH}, ({0: _SLOTS},) * len(_BANK)),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file, external_data=True)
