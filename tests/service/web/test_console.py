"""The console in a real Chromium: the whole journey of someone who has photos and reads no docs.

`pytest tests/service/web/test_console.py --screenshots` also takes the pictures of docs/console.md.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from service.client import Client
from service.demo.__main__ import PHOTOS
from tests.support.cluster import Cluster
from tests.support.paths import ROOT

CHROMIUM = shutil.which("chromium")
PICTURES = ROOT / "docs" / "console"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
FIT_MS = 120_000  # on a busy machine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
Look = Callable[[Page, str], None]


class Site(NamedTuple):
    """A server with a worker behind it, and a tenant's key."""

    url: str
    key: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cluster = Cluster(tmp_path_factory.mktemp("site"), servers=1, workers=1)
    with cluster.running():
        _, client = cluster.new_tenant()
        key = client.http.headers["authorization"].split()[1]
        yield Site(cluster.servers[0].url, key)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six; a lotus among the crabs, a broken file, and one photo twice."""
    made = tmp_path_factory.mktemp("photos") / "mine"
    for name in ("crab", "lotus", "starfish"):
        (made / name).mkdir(parents=True)
        for photo in photos(name)[:6]:
            shutil.copy(photo, made / name)
    shutil.copy(photos("lotus")[7], made / "crab" / "not-a-crab.jpg")
    (made / "crab" / "broken.jpg").write_bytes(b"no picture")
    shutil.copy(photos("starfish")[0], made / "starfish" / "twice.jpg")
    return made


def photos(name: str) -> list[Path]:
    return sorted((PHOTOS / name).iterdir())


@pytest.fixture
def look(request: pytest.FixtureRequest) -> Look:
    """Judges a page with axe, in light and dark, and takes its picture when asked to."""

    def judge(page: Page, name: str) -> None:
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page).response["violations"]
            serious = [v for v in found if v["impact"] in ("serious", "critical")]
            assert not serious, [(v["id"], v["nodes"][0]["html"]) for v in serious]
            wanted = (scheme == "dark") == name.endswith("-dark")
            if wanted and request.config.getoption("--screenshots"):
                page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    return judge


def sign_in(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.get_by_label("Your API key").fill(site.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1, name="Photos")).to_be_visible()


def test_from_photos_to_a_classifier_without_a_page_of_documentation(
    browser: Browser, site: Site, folder: Path, look: Look
) -> None:
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(site.url)
    look(page, "1-sign-in")
    sign_in(page, site)
    bring_photos(page, folder)
    look(page, "2-photos")
    page.get_by_role("button", name="Fit").click()
    expect(page.locator("polyline[points*=' ']")).to_have_count(1, timeout=FIT_MS)
    look(page, "3-fit-dark")
    see_what_it_is_worth(page)
    look(page, "4-results")
    correct_a_label(page, look)
    fit_again(site)
    roll_back_and_forth(page)
    look(page, "6-versions")
    try_it(page, secret=site.key)
    look(page, "7-try")
    delete_a_photo(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert problems == []
    page.close()


def bring_photos(page: Page, folder: Path) -> None:
    page.get_by_label("Name").fill("Shore and pond")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Shore and pond")).to_be_visible()
    page.locator("input[webkitdirectory]").set_input_files(folder)
    expect(page.get_by_text("19 new photos added.")).to_be_visible(timeout=FIT_MS)
    expect(page.get_by_text("crab/broken.jpg: not a picture")).to_be_visible()
    expect(page.get_by_text("1 photo there already")).to_be_visible()
    page.locator(".photos li").last.scroll_into_view_if_needed()
    expect(page.locator(".photos img[src^=blob]")).to_have_count(19)


def see_what_it_is_worth(page: Page) -> None:
    expect(page.get_by_role("heading", name="Fit of Shore-and-pond")).to_be_visible()
    done = "Version 1 is ready and published."
    expect(page.locator(".lead")).to_have_text(done, timeout=FIT_MS)
    page.get_by_role("link", name="See how good it is").click()
    expect(page.get_by_text("Without fitting (zero-shot)")).to_be_visible()
    expect(page.get_by_role("region", name="Confusion matrix")).to_be_visible()
    mistake = page.locator(".mistakes li", has_text="labelled crab").first
    mistake.scroll_into_view_if_needed()
    expect(mistake.locator("img[src^=blob]")).to_be_visible()


def correct_a_label(page: Page, look: Look) -> None:
    page.get_by_role("link", name="Go to its photos").click()
    page.get_by_role("checkbox", name="not-a-crab.jpg").focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("1 photo chosen")).to_be_visible()
    page.get_by_label("Move to class").fill("lotus")
    look(page, "5-move-dark")
    page.get_by_role("button", name="Move").click()
    lotus = page.get_by_role("region", name="lotus")
    expect(lotus.get_by_role("checkbox", name="not-a-crab.jpg")).to_be_visible()


def fit_again(site: Site) -> None:
    """A short one, past the console: what is looked at is a second version."""
    with Client(site.url, site.key) as client:
        (dataset,) = [d for d in client.pages("/v1/datasets") if d["name"] == "Shore and pond"]
        assert dataset["labels"] == {"crab": 6, "lotus": 7, "starfish": 6}
        params = {"epochs": 8}
        job = client.create_job(dataset["dataset"], "Shore-and-pond", params=params)
        assert [e["state"] for e in client.job_events(job["job"])][-1] == "succeeded"


def roll_back_and_forth(page: Page) -> None:
    page.get_by_role("link", name="Classifiers").click()
    page.get_by_role("link", name="Shore-and-pond").click()
    expect(page.get_by_role("heading", name="Compare two versions")).to_be_visible()
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("row", name="1 live")).to_be_visible()
    page.get_by_role("button", name="Publish version 2").click()
    expect(page.get_by_role("row", name="2 live")).to_be_visible()


def try_it(page: Page, secret: str) -> None:
    page.get_by_role("main").get_by_role("link", name="Try it").click()
    names = page.get_by_label("Names to choose from")
    expect(names).to_have_value("crab, lotus, starfish")
    names.fill("crab, lotus, starfish, bicycle")
    page.locator("input[type=file]").set_input_files(photos("lotus")[9])
    expect(page.locator(".results .card")).to_have_count(2)
    expect(page.get_by_role("heading", name="Shore-and-pond, version 2")).to_be_visible()
    expect(page.locator(".results .card").first.locator("li").first).to_contain_text("lotus")
    line = page.locator(".curl code").inner_text()
    assert 'classes=["crab","lotus","starfish","bicycle"]' in line
    assert secret not in page.content()


def delete_a_photo(page: Page) -> None:
    page.get_by_role("link", name="Photos").click()
    page.get_by_role("link", name="Shore and pond").click()
    page.get_by_role("checkbox", name="not-a-crab.jpg").check()
    page.locator(".selection").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".photos li")).to_have_count(18)


def test_a_wrong_key_is_told_at_once(browser: Browser, site: Site) -> None:
    page = browser.new_page()
    page.goto(site.url)
    page.get_by_label("Your API key").fill("rma_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not valid here")
    assert page.evaluate("sessionStorage.length") == 0
    page.close()


def test_photos_that_are_dropped_take_the_class_that_was_typed(
    browser: Browser, site: Site
) -> None:
    page = browser.new_page()
    sign_in(page, site)
    page.get_by_label("Name").fill("Dropped")
    page.get_by_role("button", name="Create").click()
    photo = list(photos("cup")[0].read_bytes())
    drop = """(zone, bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a cup.jpg", { type: "image/jpeg" }));
        zone.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    zone = page.get_by_role("region", name="Add photos")
    zone.evaluate(drop, photo)
    expect(page.get_by_role("alert")).to_contain_text("type the class first")
    page.get_by_label("Class of these photos").fill("cup")
    zone.evaluate(drop, photo)
    expect(page.get_by_text("1 new photo added.")).to_be_visible()
    expect(page.get_by_role("checkbox", name="a cup.jpg")).to_be_visible()
    page.close()


def test_it_fits_a_phone_and_its_camera(browser: Browser, site: Site, look: Look) -> None:
    context = browser.new_context(
        viewport={"width": 375, "height": 700}, has_touch=True, permissions=["camera"]
    )
    page = context.new_page()
    sign_in(page, site)
    for place, title in (("data", "Photos"), ("classifiers", "Classifiers"), ("try", "Try it")):
        page.evaluate(f"location.hash = '#/{place}'")
        expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_label("Classifier", exact=True).select_option("")
    page.get_by_label("Names to choose from").fill("green circle, cat")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator(".results li")).to_have_count(2)
    look(page, "8-phone")
    context.close()


def test_a_key_that_only_classifies_sees_no_photos(browser: Browser, site: Site) -> None:
    page = browser.new_page()
    sign_in(page, site)
    made = page.evaluate(
        """async () => (await (await fetch("/v1/keys", { method: "POST",
             headers: { Authorization: `Bearer ${sessionStorage.getItem("rmadapter.key")}`,
                        "Content-Type": "application/json" },
             body: JSON.stringify({ scope: "classify" }) })).json()).api_key"""
    )
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Your API key").fill(made)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Try it")).to_be_visible()
    expect(page.get_by_role("link", name="Photos")).to_be_hidden()
    page.close()


def test_nothing_but_its_own_scripts_may_run(browser: Browser, site: Site) -> None:
    page = browser.new_page()
    response = page.goto(site.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
             document.addEventListener("securitypolicyviolation", () => resolve(true));
             const script = document.createElement("script");
             script.textContent = "window.ran = true";
             document.body.append(script);
             setTimeout(() => resolve(false), 1000);
           })"""
    )
    assert blocked
    assert page.evaluate("window.ran") is None
    page.close()


def test_the_api_reference_is_styled_and_cannot_read_the_session(
    browser: Browser, site: Site
) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700})
    page = context.new_page()
    sign_in(page, site)
    assert page.evaluate("sessionStorage.length") == 1
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(f"{site.url}/docs")
    session = context.new_cdp_session(page)  # page.evaluate waits for a page's script, for ever

    def value(expression: str) -> str | int:
        body = f"try {{ return {expression} }} catch (e) {{ return e.name }}"
        answer = session.send("Runtime.evaluate", {"expression": f"(() => {{ {body} }})()"})
        return answer["result"]["value"]

    assert value("sessionStorage.length") == "SecurityError"
    assert value("getComputedStyle(document.querySelector('section')).borderRadius") == "12px"
    assert value("document.documentElement.scrollWidth") <= 375
    assert [url for url in asked if not url.startswith(site.url)] == []
    assert problems == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_api_reference_can_be_read_by_all(
    browser: Browser, site: Site, scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()

    def without_policy(route: Route) -> None:  # else axe's own script could not run
        answer = route.fetch()
        headers = {k: v for k, v in answer.headers.items() if k != "content-security-policy"}
        route.fulfill(response=answer, headers=headers)

    page.route("**/docs", without_policy)
    page.goto(f"{site.url}/docs")
    assert [v["id"] for v in Axe().run(page).response["violations"]] == []
    context.close()
