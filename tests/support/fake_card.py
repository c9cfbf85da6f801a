"""A graphics card on a machine without one: devices and types are real, numbers are not.

PyTorch's FakeTensorMode raises on every product of tensors on two devices. The card also raises
on one of two types. A CPU index into a tensor on the card is legal, and so are copies between the
two; both cost time, so the card counts them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UPLOAD, DOWNLOAD, HOST_INDEX, WAIT = "upload", "download", "host index", "wait"

_aten = torch.ops.aten
_COPIES = {  # in inference mode `to` arrives whole
    _aten._to_copy.default,
    _aten.copy_.default,
    _aten.to.device,
    _aten.to.dtype_layout,
    _aten.to.other,
}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
_WAITS = {  # their result, or its shape, must be known on the host
    _aten._local_scalar_dense.default,
    _aten.item.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten._unique2.default,
}
_OF_ONE_TYPE = {  # on a card; a CPU takes some of them mixed
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "matmul",
    "linear",
    "conv2d",
    "convolution",
    "layer_norm",
    "native_layer_norm",
    "scaled_dot_product_attention",
}


class MixedTypes(RuntimeError):
    """An operation that a card refuses: its tensors have two types."""


class Card(TorchDispatchMode):
    """Counts what the host and the card do to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        places = [t.device.type for t in tensors]
        if func.overloadpacket.__name__ in _OF_ONE_TYPE:
            kinds = {t.dtype for t in tensors if t.is_floating_point()}
            if len(kinds) > 1:
                raise MixedTypes(f"{func} of {kinds}")
        if func in _WAITS and "cuda" in places:
            self.seen[WAIT] += 1
        if func in _INDEXED and places[0] == "cuda":
            self.seen[HOST_INDEX] += "cpu" in places[1:]
            self.seen[WAIT] += any(t.dtype == torch.bool for t in tensors[1:])
        out = func(*args, **(kwargs or {}))
        if func in _COPIES:
            source = places[1] if func is _aten.copy_.default else places[0]
            self._note_copy(source, out.device.type)
        return out

    def _note_copy(self, source: str, target: str) -> None:
        if source != target:
            self.seen[UPLOAD if target == "cuda" else DOWNLOAD] += 1

    def waits(self) -> int:
        """How many times the host waited for the card."""
        return self.seen[WAIT] + self.seen[DOWNLOAD]


@contextmanager
def fake_card() -> Iterator[Card]:
    """Within it "cuda" is a card; what was made outside counts as on the CPU."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # so that Module.to works
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Card() as card, torch.no_grad():
            yield card
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
