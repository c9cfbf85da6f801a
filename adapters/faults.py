"""What a device's error means: memory that ran out, or a device that does not come back."""

import torch

_OUT_OF_MEMORY = (  # of a CPU, of cuBLAS and cuDNN, of ONNX Runtime
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "failed to allocate memory",
)
_LASTING = (  # as CUDA words them; the process's context is of no more use after them
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "device-side assert",
    "unspecified launch failure",
    "uncorrectable ecc",
    "hardware stack error",
    "launch timed out",
    "busy or unavailable",
    "no cuda-capable device",
    "context is destroyed",
    "driver shutting down",
    "unknown error",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, so that a smaller batch may fit."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or _says(error, _OUT_OF_MEMORY)


def is_lasting(error: BaseException) -> bool:
    """Whether every later call fails too, until the process starts anew: a card's error."""
    return "cuda" in str(error).lower() and _says(error, _LASTING)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)
