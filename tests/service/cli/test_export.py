"""What is exported answers as the service does, with onnxruntime, Pillow and NumPy alone."""

import base64
import json
import re
import runpy
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from adapters.errors import BadArtifact
from adapters.evidence import Evidence, fit_evidence
from adapters.pixels import decode_image
from service.client import Client
from service.demo.__main__ import PHOTOS
from service.portable import Portable, write_portable
from service.portable.licences import licence_of
from tests.support.api import Api
from tests.support.console import CHROMIUM, QUIET
from tests.support.paths import ROOT
from tests.support.random_adapters import manifest_of, random_weights

CLASSES = ("crab", "lotus", "cup")
ASKED = [photo for name in CLASSES for photo in sorted((PHOTOS / name).iterdir())[10:14]]
ALONE = (  # the program in a process where nothing of ours and no torch can be imported
    "import runpy, sys\n"
    "ours = ('torch', 'open_clip', 'adapters', 'service', 'training')\n"
    "sys.modules.update(dict.fromkeys(ours))\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


@pytest.fixture(scope="module")
def owner(api: Api) -> Client:
    return api.new_tenant()


def real_head(client: Client) -> Evidence:
    """Fitted to the features of real photos."""
    photos = [photo for name in CLASSES for photo in sorted((PHOTOS / name).iterdir())[:6]]
    uris = [f"data:image/jpeg;base64,{base64.b64encode(p.read_bytes()).decode()}" for p in photos]
    made = client.embeddings([*uris, *(f"a photo of a {name}." for name in CLASSES)])["data"]
    features = torch.tensor([item["embedding"] for item in made])
    labels = torch.arange(len(CLASSES)).repeat_interleave(6)
    return replace(fit_evidence(features[:18], labels, features[18:], 60.0), scale=5.0)


def exported(artifact: Artifact, clip: FrozenCLIP, folder: Path, int8: bool = False) -> Path:
    """The zip's files in a folder."""
    portable = Portable(artifact, "0" * 64, licence_of("bundled", None), int8)
    write_portable(clip, portable, folder / "out.zip")
    with zipfile.ZipFile(folder / "out.zip") as archive:
        archive.extractall(folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def with_head(api: Api, owner: Client, clip: FrozenCLIP) -> Artifact:
    """Published as `flowers`."""
    records = api.components.records
    manifest = manifest_of(clip, tenant=owner.tenant, adapter="flowers", classes=CLASSES)
    head = real_head(owner)
    numbers = {name: getattr(head, name) for name in ("text_scale", "gamma", "offset", "scale")}
    numbers |= {"photos": len(head.photos), "width": clip.embed_dim}
    artifact = Artifact(replace(manifest, head=numbers), random_weights(clip, 1), head)
    records.adapters.add(artifact.manifest, encode_artifact(artifact))
    records.adapters.publish(owner.tenant, "flowers", 1)
    return artifact


@pytest.fixture(scope="module")
def folder(with_head: Artifact, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(with_head, clip, tmp_path_factory.mktemp("exported"))


def predicted(folder: Path, *photos: Path) -> list[dict[str, float]]:
    """What the program in the zip prints."""
    command = [sys.executable, "-c", ALONE, str(folder / "predict.py"), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return [dict(json.loads(line)["predictions"]) for line in done.stdout.splitlines()]


def served(client: Client, adapter: str, *photos: Path) -> list[dict[str, float]]:
    answer = client.classify([(p.name, p.read_bytes()) for p in photos], adapter=adapter)
    return [{p["label"]: p["score"] for p in r["predictions"]} for r in answer["results"]]


def test_the_program_in_the_zip_answers_as_the_service_does(owner: Client, folder: Path) -> None:
    ours, theirs = served(owner, "flowers", *ASKED), predicted(folder, *ASKED)
    assert len(theirs) == len(ASKED)
    for one, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    assert len({max(one, key=one.__getitem__) for one in ours}) > 1


def test_a_version_without_a_head_answers_as_the_service_does(
    api: Api, owner: Client, clip: FrozenCLIP, tmp_path: Path
) -> None:
    manifest = manifest_of(clip, tenant=owner.tenant, adapter="headless", classes=CLASSES)
    artifact = Artifact(manifest, random_weights(clip, 2))
    api.components.records.adapters.add(manifest, encode_artifact(artifact))
    api.components.records.adapters.publish(owner.tenant, "headless", 1)
    ours = served(owner, "headless", *ASKED[::4])
    theirs = predicted(exported(artifact, clip, tmp_path), *ASKED[::4])
    for one, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_the_zip_has_what_a_reader_needs(folder: Path, with_head: Artifact) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "LICENCE-WEIGHTS.txt",
        "about.json",
        "index.html",
        "labels.json",
        "model.onnx",
        "predict.py",
        "preprocessing.json",
    ]
    assert json.loads((folder / "labels.json").read_text()) == list(CLASSES)
    assert "Apache-2.0" in (folder / "LICENCE-WEIGHTS.txt").read_text()
    assert len((folder / "predict.py").read_text().splitlines()) < 35
    about = json.loads((folder / "about.json").read_text())
    assert (about["adapter"], about["version"]) == ("flowers", 1)


def test_a_batch_of_photos_gives_what_each_of_them_gives(folder: Path, clip: FrozenCLIP) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    pixels = np.stack([decode_image(photo.read_bytes(), clip.spec) for photo in ASKED[:3]])
    together = session.run(["probabilities"], {"pixels": pixels})[0]
    alone = [session.run(["probabilities"], {"pixels": row[None]})[0][0] for row in pixels]
    assert together == pytest.approx(np.stack(alone), abs=1e-5)
    assert together.sum(1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_program_sees_a_photo_as_the_service_does(
    folder: Path, clip: FrozenCLIP, tmp_path: Path, kind: str, turn: int
) -> None:
    file = tmp_path / f"photo.{kind.lower()}"
    exif = Image.Exif()
    exif[0x0112] = turn
    with Image.open(ASKED[0]) as photo:
        photo.convert("RGB").resize((531, 400)).save(file, kind, exif=exif)
    seen = runpy.run_path(str(folder / "predict.py"))["pixels"](str(file))[0]
    assert np.array_equal(seen, decode_image(file.read_bytes(), clip.spec))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dist folder of the npm package that the page names, by its version."""
    page = (ROOT / "service" / "portable" / "index.html").read_text()
    (version,) = set(re.findall(r"onnxruntime-web@([0-9.]+)/", page))
    place = tmp_path_factory.mktemp("npm")
    command = ["npm", "pack", f"onnxruntime-web@{version}"]
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs npm and its registry: {error}")
    with tarfile.open(next(place.glob("*.tgz"))) as archive:
        for name in archive.getnames():
            if name.startswith("package/dist/"):
                archive.extract(name, place)
    return place / "package" / "dist"


@pytest.fixture
def page(folder: Path, runtime: Path) -> Iterator[Page]:
    """The page of the zip in a real browser, served as plain files."""
    handler = partial(QuietFiles, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def from_npm(route: Route) -> None:
        file = runtime / Path(urlsplit(route.request.url).path).name
        kind = "application/wasm" if file.suffix == ".wasm" else "text/javascript"
        headers = {"access-control-allow-origin": "*", "content-type": kind}
        route.fulfill(body=file.read_bytes(), headers=headers)

    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page()
        opened.route("https://cdn.jsdelivr.net/**", from_npm)
        opened.goto(f"http://127.0.0.1:{server.server_port}/")
        yield opened
        browser.close()
    server.shutdown()
    server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_the_page_in_the_zip_answers_in_a_browser_as_the_program_does(
    page: Page, folder: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(ASKED[5]) as photo:
        photo.convert("RGB").resize((401, 530)).save(turned, exif=exif, quality=95)
    photos = [*ASKED[::5], turned]
    expect(page.get_by_role("status")).to_have_text("Ready.", timeout=60_000)
    for photo, expected in zip(photos, predicted(folder, *photos), strict=True):
        page.get_by_label("A photo:").set_input_files(photo)
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^\d+ ms$"), timeout=60_000)
        rows = [row.split("\t") for row in page.locator("tbody").inner_text().splitlines()]
        assert {name: float(score) for name, score in rows} == pytest.approx(expected, abs=0.02)
        page.evaluate("document.querySelector('[role=status]').textContent = ''")


def test_the_page_says_that_a_file_is_no_photo(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_bytes(b"no photo")
    expect(page.get_by_role("status")).to_have_text("Ready.", timeout=60_000)
    page.get_by_label("A photo:").set_input_files(tmp_path / "notes.jpg")
    expect(page.get_by_role("status")).to_contain_text("could not be read")


def test_int8_is_smaller_and_nearly_the_same(
    with_head: Artifact, owner: Client, clip: FrozenCLIP, folder: Path, tmp_path: Path
) -> None:
    small = exported(with_head, clip, tmp_path, int8=True)
    sizes = [(place / "model.onnx").stat().st_size for place in (small, folder)]
    assert sizes[0] < 0.7 * sizes[1], sizes
    exact, rounded = predicted(folder, *ASKED), predicted(small, *ASKED)
    off = [
        max(abs(one[n] - other[n]) for n in CLASSES)
        for one, other in zip(exact, rounded, strict=True)
    ]
    assert max(off) < 0.1, off


def test_another_clips_adapter_is_refused(
    with_head: Artifact, clip: FrozenCLIP, tmp_path: Path
) -> None:
    other = replace(with_head, manifest=replace(with_head.manifest, fingerprint="f" * 64))
    portable = Portable(other, "0" * 64, licence_of("bundled", None))
    with pytest.raises(BadArtifact, match="was fitted on"):
        write_portable(clip, portable, tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tag", "name", "warns"),
    [
        ("openai", "MIT", False),
        ("laion2b_s34b_b88k", "MIT", False),
        ("datacomp_xl_s13b_b90k", "MIT", False),
        ("metaclip_400m", "NC", True),
        ("dfn2b", "Apple", True),
        ("some_new_tag", "not known", True),
        ("/weights/mine.safetensors", "not known", True),
    ],
)
def test_a_licence_that_limits_use_or_is_not_known_is_said(
    tag: str, name: str, warns: bool
) -> None:
    licence = licence_of("ViT-B-16", tag)
    assert name in licence.name
    assert (licence.warning is not None) == warns
    assert tag in licence.text


def test_the_command_writes_the_live_version(
    run, with_head: Artifact, owner: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMADAPTER_API_KEY", owner.http.headers["authorization"].split()[1])
    file = tmp_path / "flowers.zip"
    done = run("export", "flowers", "--format", "onnx", "--out", file)
    assert done.exit_code == 0, done.output
    assert "flowers version 1" in done.output
    with zipfile.ZipFile(file) as archive:
        digest = json.loads(archive.read("about.json"))["artifact_sha256"]
        model = onnxruntime.InferenceSession(archive.read("model.onnx"))
    assert (
        digest
        == owner.classify([("a.jpg", ASKED[0].read_bytes())], adapter="flowers")["artifact_sha256"]
    )
    assert [item.name for item in model.get_inputs()] == ["pixels"]


def test_an_adapter_that_is_not_there_is_said(run, tmp_path: Path) -> None:
    done = run("export", "nothing", "--out", tmp_path / "x.zip")
    assert done.exit_code == 1
    assert "there is no adapter 'nothing'" in done.output
    assert not (tmp_path / "x.zip").exists()
