"""Keeps freed memory in the process.

A convolution's buffers are as large as its input. glibc returns them to the kernel and requests
them again at each layer. On a CPU this takes longer than the matrix products:
`python -m adapters.malloc` measures both.

All threads share one arena. By default glibc gives each thread its own. A thread could then not
reuse memory that another thread freed, and the host tier of adapters would take its size once per
loading thread.
"""

import ctypes
import time

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_BYTES = 1 << 30  # above every buffer of a batch


def keep_freed_memory() -> None:
    """Sets malloc's limits for the whole process. Call it before threads start; needs glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
        mallopt(_M_ARENA_MAX, 1)


def _measure() -> None:
    import torch

    from adapters.clip import load_clip

    clip, pixels = load_clip(), torch.zeros(32, 3, 224, 224, dtype=torch.uint8)

    def seconds() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(5):
                clip.image_lower(pixels, 1)
        return (time.perf_counter() - started) / 5

    seconds()
    before = seconds()
    keep_freed_memory()
    seconds()
    after = seconds()
    print(f"32 pictures through the stem: {before:.2f} s before, {after:.2f} s after")


if __name__ == "__main__":
    _measure()
