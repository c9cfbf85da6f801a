"""Where a request's time goes: `python -m tests.benchmarks.profile`.

One client, one photo of 320×240 and eight class names over HTTP, on the bundled CLIP; then each
part by itself. What is left of the whole is HTTP, JSON, the records in Redis and the waits between.
"""

import statistics
import time
from collections.abc import Callable

import torch

from adapters.bank import FROZEN
from adapters.classify import prompts
from adapters.malloc import keep_freed_memory
from adapters.pixels import decode_image
from service.inference.engine import Row
from service.inference.torch_backend import TorchBackend
from tests.benchmarks import place
from tests.benchmarks.model import clip_of, full_bank
from tests.benchmarks.serving import CLASSES, photo, running
from tests.support.api import Api
from training.fit import default_settings

N = 30


def main() -> None:
    keep_freed_memory()
    with place.settings() as settings, running(settings, clip_of("bundled")) as api:
        report(api)


def report(api: Api) -> None:
    tenant, picture = api.new_tenant(), photo(0)
    clip, engine, backend = api.components.clip, api.components.engine, api.components.backend
    first = default_settings(clip).adapter.image_first
    pixels = decode_image(picture, clip.spec)
    rows = torch.from_numpy(pixels).unsqueeze(0)
    plain, texts = TorchBackend(clip, full_bank(clip, 2), prompts=0), prompts(CLASSES)
    with torch.inference_mode():
        tokens = clip.image_lower(rows, first)

    def through_the_engine() -> None:
        row = Row("t", FROZEN, pixels)
        engine.submit([row])
        row.future.result()

    whole = milliseconds(lambda: tenant.classify([("p.jpg", picture)], CLASSES))
    parts = {
        "decode and resize": milliseconds(lambda: decode_image(picture, clip.spec)),
        f"picture, queue and engine ({backend})": milliseconds(through_the_engine),
    }
    parts["HTTP, JSON, records, the rest"] = whole - sum(parts.values())
    print(f"{whole:8.2f} ms  the whole request, its class features kept")
    for part, ms in parts.items():
        print(f"{ms:8.2f} ms  {ms / whole:4.0%}  {part}")
    with torch.inference_mode():
        print("torch, by itself:")
        print(f"{milliseconds(lambda: clip.image_lower(rows, first)):8.2f} ms  stem, lower blocks")
        print(f"{milliseconds(lambda: clip.image_upper(tokens, first)):8.2f} ms  upper blocks")
        cold = milliseconds(lambda: plain.texts(texts, [1] * len(texts)))
        print(f"{cold:8.2f} ms  eight new class names")


def milliseconds(work: Callable[[], object]) -> float:
    """The median of N runs, after two."""
    work()
    work()
    seconds = []
    for _ in range(N):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
