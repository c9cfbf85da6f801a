"""The documentation as a site: built strictly, without a dead link, whole without internet."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from service.http.app import document
from tests.support.paths import ROOT

CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="needs mkdocs-material: make docs"
)


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.ids: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        if address := given.get(LOADED.get(tag, "")):
            self.loads.add(address)
        if tag == "a" and "href" in given:
            self.links.add(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--config-file", CONFIG, "--site-dir", folder]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}


def test_every_page_of_docs_is_in_the_site(pages: dict[Path, Page]) -> None:
    written = {file.stem for file in (ROOT / "docs").glob("*.md")}
    assert {file.stem for file in pages} == written


def test_every_picture_is_there_and_shown_or_linked(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "console.html"]
    named = {name for name in page.loads | page.links if name.startswith("console/")}
    assert named == {f"console/{file.name}" for file in (ROOT / "docs" / "console").iterdir()}


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        assert page.loads, file
        assert [a for a in page.loads if re.match(r"\w+:|//", a)] == [], file
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text()) == [], sheet


def test_every_link_inside_the_site_leads_to_a_file_and_an_anchor(pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), file
        for link in page.links | page.loads:
            path, anchor = urldefrag(unquote(link))
            if re.match(r"\w+:|//", path):
                continue
            target = (file.parent / path).resolve() if path else file
            assert target.exists(), f"{file.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].ids, f"{file.name}: {link}"


def test_the_site_has_every_call_of_the_api(site: Path) -> None:
    html = (site / "api.html").read_text()
    for path, methods in document()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in html


def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    """With the options that `make docs` gives."""
    (options,) = re.findall(r"mkdocs build (.*?) \\", (ROOT / "Makefile").read_text())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md) [no](#anchor)\n")
    plain = re.sub(r"(?m)^(hooks|docs_dir|exclude_docs):.*\n", "", CONFIG.read_text())
    plain = re.sub(r"(?ms)^nav:.*", "nav: [index.md]\n", plain)
    (tmp_path / "mkdocs.yml").write_text(plain)
    command = ["-m", "mkdocs", "build", *options.split(), "-f", tmp_path / "mkdocs.yml"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr and "#anchor" in done.stderr
