"""Keeps freed memory in the process.

A convolution's buffers are as large as its input. glibc gives them back to the kernel and asks
again at each layer, which on a CPU takes longer than the products themselves:
`python -m adapters.malloc` measures both.

What is kept must be for every thread: glibc gives threads arenas of their own, so an adapter that
one thread loads cannot take the place of one that another thread had loaded, and a host tier of
adapters would in the end take its size once for each thread that loads.
"""

import ctypes
import time

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_BYTES = 1 << 30  # above every buffer of a batch


def keep_freed_memory() -> None:
    """For the whole process, before it has threads; does nothing without glibc."""
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
