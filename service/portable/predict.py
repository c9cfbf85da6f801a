"""Classifies photos with onnxruntime, Pillow and NumPy alone: python predict.py PHOTO."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
LABELS, SPEC = (json.loads((HERE / f"{n}.json").read_text()) for n in ("labels", "preprocessing"))
MODEL = onnxruntime.InferenceSession(HERE / "model.onnx")


def pixels(file: str) -> np.ndarray:
    """A photo upright, its shortest side resized, its centre cropped: uint8 [1, 3, S, S]."""
    image, size = ImageOps.exif_transpose(Image.open(file)).convert("RGB"), SPEC["size"]
    target = [int(size * side / min(image.size)) for side in image.size]
    how = Image.Resampling[SPEC["interpolation"].upper()]
    image = image.resize(target, how, reducing_gap=3)
    left, top = (round((side - size) / 2) for side in target)
    return np.array(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    for photo in sys.argv[1:]:
        (scores,) = MODEL.run(["probabilities"], {"pixels": pixels(photo)})[0]
        best = sorted(zip(scores.tolist(), LABELS, strict=True), reverse=True)
        print(json.dumps({"file": photo, "predictions": [[name, score] for score, name in best]}))
