"""Coverage-guided fuzzing of what reads others' bytes: pictures, adapter files, archives.

Each reader gets its share of the time in a process of its own, starting from good files. Anything
but an answer or the reader's own refusal ends it, with the input in a file. Needs atheris, which
there is for Linux on x86-64.
"""

import importlib.util
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

READERS = ("pictures", "adapters", "archives")
_MAX_BYTES = 1 << 16  # of one input: parsers are in the headers
_SLOW_SECONDS = 20  # for one input, then it counts as a fault


def run(seconds: float) -> dict[str, Any]:
    """Fuzzes every reader: the inputs tried of each, and as losses those that broke."""
    if importlib.util.find_spec("atheris") is None:
        return {"not run": "atheris is not installed", "losses": []}
    share = str(max(1, round(seconds / len(READERS))))
    tried, losses = {}, []
    for reader in READERS:
        command = [sys.executable, "-m", "tests.soak.fuzz_readers", reader, share]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        counts = re.findall(r"^Done (\d+) runs|^#(\d+)\s", done.stdout, re.MULTILINE)
        tried[reader] = max((int(a or b) for a, b in counts), default=0)
        if done.returncode or not tried[reader]:
            losses.append(f"{reader}: {done.stdout[-2000:]}")
    return {"inputs tried": tried, "losses": losses}


def fuzz(reader: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "zipfile", "tarfile", "adapters", "service"]):
        read, seeds = {
            "pictures": pictures,
            "adapters": adapter_files,
            "archives": archives,
        }[reader]()
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{reader}-"))
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    limits = f"-max_total_time={seconds} -max_len={_MAX_BYTES} -timeout={_SLOW_SECONDS}"
    flags = [*limits.split(), "-rss_limit_mb=4096", f"-artifact_prefix={corpus}/broke-"]
    atheris.Setup([__file__, *flags, str(corpus)], read)
    atheris.Fuzz()


def pictures() -> tuple[Callable[[bytes], None], list[bytes]]:
    import numpy as np
    import tifffile
    from PIL import Image

    from adapters.errors import BadImage
    from adapters.pixels import ImageLimits, PixelSpec, decode_image

    spec, limits = PixelSpec(32, (0.5,) * 3, (0.5,) * 3), ImageLimits(1 << 20, 1 << 20)

    def read(data: bytes) -> None:
        try:
            pixels = decode_image(data, spec, limits)
        except BadImage:
            return
        assert pixels.shape == (3, 32, 32)

    seeds = []
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, kind)
        seeds.append(stream.getvalue())
    for compression in ("none", "zlib"):  # which tifffile reads, not Pillow
        stream = io.BytesIO()
        deep = noise.astype(np.uint16) * 257
        tifffile.imwrite(stream, deep, photometric="rgb", compression=compression)
        seeds.append(stream.getvalue())
    return read, seeds


def adapter_files() -> tuple[Callable[[bytes], None], list[bytes]]:
    import torch

    from adapters.artifact import Artifact, Manifest, decode_artifact, encode_artifact
    from adapters.bank import AdapterWeights, TowerWeights
    from adapters.errors import BadArtifact

    def read(data: bytes) -> None:
        try:
            decode_artifact(data)
        except BadArtifact:
            return

    shapes = ((1, 4, 2), (1, 2), (1, 2, 4), (1, 4))
    towers = [TowerWeights(1, *(torch.zeros(shape) for shape in shapes)) for _ in range(2)]
    manifest = Manifest(
        clip="c",
        fingerprint="f",
        tenant="t",
        adapter="a",
        version=1,
        classes=("x", "y"),
        template="a {}.",
        logit_scale=20.0,
        image_first=1,
        text_first=1,
        created_at="now",
    )
    return read, [encode_artifact(Artifact(manifest, AdapterWeights(*towers)))]


def archives() -> tuple[Callable[[bytes], None], list[bytes]]:
    import tarfile
    import zipfile

    from service.archives import ArchiveLimits, read_archive
    from service.errors import Invalid, TooLarge
    from training.data import Sample

    limits = ArchiveLimits(entries=50, bytes=1 << 18, file_bytes=1 << 16)

    def read(data: bytes) -> None:
        try:
            for item in read_archive(io.BytesIO(data), limits):
                assert not isinstance(item, Sample) or len(item.data) <= limits.file_bytes
        except (Invalid, TooLarge):
            return

    seeds = []
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.jpg", b"one" * 100)
        archive.writestr("dog/2.jpg", b"two")
    seeds.append(zipped.getvalue())
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        tarred = io.BytesIO()
        with tarfile.open(fileobj=tarred, mode=mode, format=tarfile.PAX_FORMAT) as archive:
            entry = tarfile.TarInfo("cät/" + "x" * 120 + ".jpg")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"one"))
        seeds.append(tarred.getvalue())
    return read, seeds


if __name__ == "__main__":
    fuzz(sys.argv[1], int(sys.argv[2]))
