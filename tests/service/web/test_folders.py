"""The console reads folders as archives and the command line do."""

import json
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from service.client import Client
from tests.support.api import Api
from tests.support.paths import ROOT
from training.folders import as_javascript, class_level, class_name, is_junk

TREES = [
    ["set/rose/1.jpg", "set/rose/.ipynb_checkpoints/1.jpg", "set/@eaDir/1.jpg", "set/x/Thumbs.db"],
    ["set/rose/images/1.jpg", "set/tulip/Images/2.HEIC", "set/rose/boxes.txt"],
    ["set/rose/train/1.jpg", "set/tulip/val/2.jpg"],
    ["set/train/images/1.jpg", "set/val/images/2.jpg"],
    ["set/train/rose/1.jpg", "set/val/rose/2.jpg"],
    ["set/photo/1.jpg", "set/drawing/2.jpg"],
    ["rose/images/1.jpg", "rose/images/2.jpg"],
    ["set/train/1.jpg", "set/val/2.jpg"],
    ["images/1.jpg"],
]
ASK = """
import { loose } from "./upload.js";
const tree = JSON.parse(process.argv[2]);
const file = (path) => ({ name: path.split("/").at(-1), webkitRelativePath: path });
const found = loose(tree.map(file), "typed");
console.log(JSON.stringify(found.map(({ label, file }) => [file.webkitRelativePath, label])));
"""


@pytest.fixture
def console(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "service" / "web" / "upload.js", tmp_path)
    (tmp_path / "api.js").write_text("export const post = null;")
    (tmp_path / "folders.js").write_text(as_javascript())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "ask.js").write_text(ASK)
    return tmp_path


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("tree", TREES)
def test_the_console_finds_the_same_photos_and_classes(console: Path, tree: list[str]) -> None:
    paths = [PurePosixPath(name) for name in tree if not is_junk(PurePosixPath(name))]
    level = class_level(paths)
    asked = subprocess.run(
        ["node", "ask.js", json.dumps(tree)], cwd=console, capture_output=True, check=True
    )
    assert json.loads(asked.stdout) == [[str(path), class_name(path, level)] for path in paths]


def test_the_service_serves_the_lists_as_a_module(api: Api) -> None:
    client: Client = api.new_tenant()
    answer = client.http.get("/console/folders.js")
    assert answer.text == as_javascript()
    assert answer.headers["content-type"].startswith("text/javascript")
