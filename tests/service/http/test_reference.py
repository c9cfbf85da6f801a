"""The API reference at /docs: whole without internet, without script, apart from the console."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from service.http.app import create_app, document
from service.http.reference import curl, example_of, page
from tests.support.api import Api
from tests.support.paths import ROOT

WEB = ROOT / "service" / "web"
MADE = document()
CALLS = [(path, method) for path, methods in MADE["paths"].items() for method in methods]


class Addresses(HTMLParser):
    """What a page loads or leads to, its scripts, and its anchors."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.found += [given[name] for name in ("src", "href", "srcset") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


@pytest.fixture(scope="module")
def pages(api: Api) -> dict[str, httpx.Response]:
    """Every route that answers a browser with HTML."""
    asked = {path for path in _paths(create_app(api.components).routes) if "{" not in path}
    asked |= {f"/console/{file.name}" for file in WEB.glob("*.html")}
    answers = {path: httpx.get(api.url + path, follow_redirects=True) for path in sorted(asked)}
    html = {p: r for p, r in answers.items() if "html" in r.headers["content-type"]}
    assert html.keys() >= {"/", "/docs", "/redoc", "/console/index.html"}
    return html


def _paths(routes: Iterable[Any]) -> Iterator[str]:
    """Of all that can be got, included routers' too."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from _paths(inner.routes)
        elif "GET" in (getattr(route, "methods", None) or ()):
            yield route.path


def test_no_page_loads_or_names_anything_of_another_host(pages: dict[str, httpx.Response]) -> None:
    for path, answer in pages.items():
        found = Addresses(answer.text).found
        assert found, path
        assert [to for to in found if re.match(r"\w+:|//", to)] == [], path


def test_what_a_page_loads_is_there(api: Api, pages: dict[str, httpx.Response]) -> None:
    for answer in (pages["/"], pages["/docs"]):  # /console/index.html is the file behind /
        for to in Addresses(answer.text).found:
            if not to.startswith("#") and answer.url.join(to).path != "/":
                assert httpx.get(answer.url.join(to)).status_code == 200, to


def test_every_page_forbids_inline_script_and_has_none(pages: dict[str, httpx.Response]) -> None:
    for path, answer in pages.items():
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy, path
        assert Addresses(answer.text).inline == [], path


def test_the_reference_runs_no_script_and_has_an_origin_of_its_own(
    pages: dict[str, httpx.Response],
) -> None:
    for path in ("/docs", "/redoc"):
        directives = [d.strip() for d in pages[path].headers["content-security-policy"].split(";")]
        assert "sandbox" in directives  # with no allow-same-origin: the console's key is out of it
        assert not any(d.startswith("script-src") for d in directives)
        assert "<script" not in pages[path].text


def test_redoc_leads_to_docs(pages: dict[str, httpx.Response]) -> None:
    assert pages["/redoc"].url.path == "/docs"
    assert pages["/redoc"].history[0].status_code == 308


def test_the_reference_shows_every_call_and_links_lead_to_anchors() -> None:
    html = page(MADE)
    parsed = Addresses(html)
    assert {to[1:] for to in parsed.found if to.startswith("#")} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    for path, method in CALLS:
        assert f"<code>{method.upper()} {path}</code>" in html


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_a_call_has_words_an_example_request_and_an_example_answer(path: str, method: str) -> None:
    call = MADE["paths"][path][method]
    assert len(call["summary"].split()) > 0 and len(call["description"].split()) > 2
    assert "{" not in curl(MADE, method, path).split("\n")[1], "a part of the path has no example"
    for content in call.get("requestBody", {}).get("content", {}).values():
        assert example_of(MADE, content["schema"]), "what goes in"
    answers = {s: r for s, r in call["responses"].items() if s.startswith("2")}
    assert answers
    for status, response in answers.items():
        assert status == "204" or response.get("content") or "bytes" in response["description"]
        for content in response.get("content", {}).values():
            schema = content.get("schema", {})
            binary = schema.get("format") == "binary"
            assert binary or content.get("example") or example_of(MADE, schema), "what comes out"


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("call", ["/v1/keys", "/v1/datasets"])
def test_an_example_request_runs_as_it_is_shown(api: Api, call: str) -> None:
    line = curl(MADE, "post", call).replace("http://localhost:8000", api.url)
    key = api.new_tenant().http.headers["authorization"].split()[1]
    done = subprocess.run(
        ["bash", "-c", f"{line} --silent --fail-with-body"],
        env={"KEY": key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
