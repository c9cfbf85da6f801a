"""Many photos within a bound of memory."""

import json
import subprocess
import sys

LIMIT = 100 * 2**20  # bytes; tokens of all 20,000 photos take 174 MB, their pixels 61 MB
FIT_BYTES = 8 * 2**20

# In a process of its own, whose peak of memory is that of these photos: a CLIP of two small blocks,
# photos that are made when they are read, one epoch, and the features of all photos.
PROGRAM = f"""
import json, resource, torch
from collections.abc import Sequence
from types import SimpleNamespace
import open_clip
from open_clip.tokenizer import SimpleTokenizer
from adapters.clip import FrozenCLIP
from adapters.pixels import PixelSpec
from training.fit import default_settings, fit_rows
from training.photos import FrozenPhotos, rows_in_memory

tower = {{"width": 64, "layers": 2}}
vision = tower | {{"image_size": 32, "patch_size": 8, "head_width": 32}}
model = open_clip.CLIP(16, vision, tower | {{"heads": 2, "context_length": 32}})
spec = PixelSpec(32, (0.5,) * 3, (0.5,) * 3, "bicubic")
clip = FrozenCLIP(model, SimpleTokenizer(context_length=32), spec, "small")

class Photos:
    names = tuple(map(str, range(20_000)))
    labels = torch.arange(20_000) % 4
    read, most = 0, 0

    def pixels(self, rows):
        Photos.read, Photos.most = self.read + len(rows), max(self.most, len(rows))
        made = [torch.Generator().manual_seed(row) for row in rows]
        return torch.stack(
            [torch.randint(256, (3, 32, 32), generator=g, dtype=torch.uint8) for g in made]
        )

    def features(self):
        return {{}}

    def keep(self, features):
        self.kept = len(features)

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

photos, settings = Photos(), default_settings(clip, epochs=1, min_steps=1)
few = FrozenPhotos(clip, photos, settings, lambda: None)
few.fit_on(torch.arange(64))
few._pass(list(range(64)))  # what any fit takes once
before = peak()
frozen = FrozenPhotos(clip, photos, settings, lambda: None)
chosen = rows_in_memory(clip, photos.labels, settings, {FIT_BYTES})
frozen.fit_on(chosen)
features = frozen.features()
frozen.keep()
prepared = frozen.prepared(("a", "b", "c", "d"))
adapters = fit_rows(clip, prepared, torch.arange(len(prepared)))
rest = frozen.rest()
others = rest.features(adapters)
print(json.dumps({{
    "grown": peak() - before,
    "tokens": prepared.images.tokens.nbytes + prepared.images.after.nbytes,
    "fitted": len(prepared),
    "by class": prepared.labels.bincount().tolist(),
    "features": len(features),
    "rest": len(others),
    "kept": photos.kept,
    "at once": photos.most,
}}))
"""


def test_twenty_thousand_photos_are_fitted_within_a_stated_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokens"] <= FIT_BYTES < 2 * found["tokens"]
    assert max(found["by class"]) - min(found["by class"]) <= 1
    assert found["features"] == found["kept"] == found["fitted"] + found["rest"] == 20_000
    assert found["at once"] <= 64
    assert found["grown"] < LIMIT
