"""The console in a real Chromium: the whole journey of someone who has photos and reads no docs.

`pytest tests/service/web/test_console.py --screenshots` also takes the pictures of docs/console.md.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from adapters.clip import FrozenCLIP
from service.client import Client
from tests.support.api import ADMIN_KEY
from tests.support.cluster import Cluster
from tests.support.console import CHROMIUM, FIT_MS, Look, photos, sign_in
from tests.support.random_adapters import add_version

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

PROGRAMS = {".sh": "bash", ".py": sys.executable, ".mjs": "node"}


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


def test_from_photos_to_a_classifier_without_a_page_of_documentation(
    page: Page, url: str, key: str, folder: Path, look: Look
) -> None:
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(url)
    look(page, "sign-in")
    sign_in(page, url, key)
    expect(page.get_by_role("main")).not_to_contain_text("null")
    bring_photos(page, folder)
    look(page, "photos")
    page.get_by_role("button", name="Fit").click()
    expect(page.locator("polyline[points*=' ']").first).to_be_attached(timeout=FIT_MS)
    look(page, "fit")
    see_what_it_is_worth(page)
    look(page, "results")
    correct_a_label(page, look)
    fit_again(url, key)
    roll_back_and_forth(page)
    look(page, "versions")
    try_it(page, secret=key)
    look(page, "try")
    delete_a_photo(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert problems == []


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
    done = re.compile(r"^Version 2 is ready")
    expect(page.locator(".lead")).to_have_text(done, timeout=FIT_MS)
    expect(page.get_by_text("each photo was classified by a fit on the others")).to_be_visible()
    page.get_by_role("link", name="See how good it is").click()
    expect(page.get_by_text("Without fitting (zero-shot)")).to_be_visible()
    expect(
        page.get_by_text(re.compile(r"^\d+ of 19 photos right \(\d+ to \d+ %\)$"))
    ).to_have_count(3)
    expect(page.get_by_text("Instant version, without training")).to_be_visible()
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
    look(page, "move")
    page.get_by_role("button", name="Move").click()
    lotus = page.get_by_role("region", name="lotus")
    expect(lotus.get_by_role("checkbox", name="not-a-crab.jpg")).to_be_visible()


def fit_again(url: str, key: str) -> None:
    """A short one, past the console: what is looked at is a version that is not live."""
    with Client(url, key) as client:
        (dataset,) = [d for d in client.pages("/v1/datasets") if d["name"] == "Shore and pond"]
        assert dataset["labels"] == {"crab": 6, "lotus": 7, "starfish": 6}
        params = {"epochs": 8}
        name = "Shore-and-pond"
        job = client.create_job(dataset["dataset"], name, params=params, publish=False)
        assert [e["state"] for e in client.job_events(job["job"])][-1] == "succeeded"


def roll_back_and_forth(page: Page) -> None:
    page.get_by_role("link", name="Classifiers").click()
    page.get_by_role("link", name="Shore-and-pond").click()
    expect(page.get_by_role("heading", name="Compare two versions")).to_be_visible()
    page.get_by_role("button", name="Publish version 3").click()
    expect(page.get_by_role("row", name="3 live")).to_be_visible()
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("row", name="1 live instant")).to_be_visible()
    page.get_by_role("button", name="Publish version 3").click()
    expect(page.get_by_role("row", name="3 live")).to_be_visible()


def try_it(page: Page, secret: str) -> None:
    page.get_by_role("main").get_by_role("link", name="Try it").click()
    names = page.get_by_label("Names to choose from")
    expect(names).to_have_value("crab, lotus, starfish")
    names.fill("crab, lotus, starfish, bicycle")
    page.locator("input[type=file]").set_input_files(photos("lotus")[9])
    expect(page.locator(".results .card")).to_have_count(2)
    expect(page.get_by_role("heading", name="Shore-and-pond, version 3")).to_be_visible()
    expect(page.locator(".results .card").first.locator("li").first).to_contain_text("lotus")
    assert '"bicycle"' in page.locator(".code code").inner_text()
    assert secret not in page.content()


def delete_a_photo(page: Page) -> None:
    page.get_by_role("link", name="Photos").click()
    page.get_by_role("link", name="Shore and pond").click()
    page.get_by_role("checkbox", name="not-a-crab.jpg").check()
    page.locator(".selection").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".photos li")).to_have_count(18)


def test_a_wrong_key_is_told_at_once(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Your API key").fill("rma_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not valid here")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_version_that_is_not_live_is_opened_and_tried(
    page: Page, url: str, key: str, client: Client, cluster: Cluster, clip: FrozenCLIP
) -> None:
    for number, classes in ((1, ("crab", "lotus")), (2, ("cup", "lotus"))):
        add_version(cluster.records, clip, client.tenant, "mine", number, classes=classes)
    client.publish("mine", 1)
    sign_in(page, url, key)
    page.get_by_role("link", name="Classifiers").click()
    page.get_by_role("link", name="mine").click()
    page.get_by_role("button", name="View version 2").click()
    expect(page.get_by_role("heading", name="Version 2", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Version 2", exact=True)).to_be_visible()
    page.get_by_role("link", name="Try version 2").click()
    expect(page.get_by_label("Version", exact=True)).to_have_value("2")
    expect(page.get_by_label("Names to choose from")).to_have_value("cup, lotus")
    page.locator("input[type=file]").set_input_files(photos("lotus")[0])
    expect(page.get_by_role("heading", name="mine, version 2")).to_be_visible()
    expect(page.locator(".code code")).to_contain_text("version=2")
    page.get_by_label("Version", exact=True).select_option("1 (live)")
    expect(page.get_by_label("Names to choose from")).to_have_value("crab, lotus")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("heading", name="mine, version 1")).to_be_visible()
    expect(page.locator(".code code")).not_to_contain_text("version=")


def test_the_answer_is_scrolled_to_and_a_camera_will_do(page: Page, url: str, key: str) -> None:
    page.context.grant_permissions(["camera"], origin=url)
    page.set_viewport_size({"width": 390, "height": 700})
    sign_in(page, url, key)
    page.evaluate("location.hash = '#/try'")
    page.get_by_label("Names to choose from").fill("green circle, cat")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator(".results li")).to_have_count(2)
    expect(page.locator(".results li").first).to_be_in_viewport()
    expect(page.get_by_role("button", name="Use the camera")).to_be_visible()


def test_a_key_that_only_classifies_sees_what_it_may_use(
    page: Page, url: str, client: Client
) -> None:
    made = client.call("POST", "/v1/keys", json={"scope": "classify"})["api_key"]
    sign_in(page, url, made, title="Try it")
    for name in ("Photos", "Fits", "API keys", "Tenants"):
        expect(page.get_by_role("link", name=name)).to_be_hidden()
    for place in ("data", "fits", "keys", "tenants"):
        page.evaluate(f"location.hash = '#/{place}'")
        expect(page.get_by_role("heading", level=1, name="Try it")).to_be_visible()
    page.get_by_role("link", name="Classifiers").click()
    expect(page.get_by_role("heading", level=1, name="Classifiers")).to_be_visible()


def test_an_admin_makes_a_tenant_gives_it_a_new_key_and_erases_it(
    page: Page, url: str, look: Look
) -> None:
    sign_in(page, url, ADMIN_KEY, title="Tenants")
    expect(page.get_by_role("link", name="Photos")).to_be_hidden()
    page.get_by_label("Name").fill("Meadow Ltd")
    page.get_by_role("button", name="Make").click()
    shown = page.get_by_role("region", name="First key of Meadow Ltd")
    first = shown.get_by_role("textbox").input_value()
    look(page, "tenants")
    shown.get_by_role("button", name="I have kept it").click()
    expect(shown).to_have_count(0)
    page.get_by_role("button", name="New key for Meadow Ltd").click()
    page.get_by_role("dialog").get_by_role("button", name="Make a new key").click()
    second = page.get_by_role("region", name="New key of Meadow Ltd").get_by_role("textbox")
    assert status(url, first) == 401
    assert status(url, second.input_value()) == 200
    key = second.input_value()
    page.get_by_role("button", name="Erase Meadow Ltd").click()
    erase = page.get_by_role("dialog").get_by_role("button", name="Erase")
    expect(erase).to_be_disabled()
    page.get_by_label("Type “Meadow Ltd” to go on").fill("Meadow Ltd")
    erase.click()
    expect(page.get_by_role("row", name="Meadow Ltd")).to_have_count(0)
    assert status(url, key) == 401


def status(url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/v1/datasets", headers=headers).status_code


def test_keys_are_listed_with_their_scope_made_and_revoked(
    page: Page, url: str, key: str, look: Look
) -> None:
    sign_in(page, url, key)
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("button", name="Make a key").click()
    made = page.get_by_role("region", name="A new key").get_by_role("textbox").input_value()
    with Client(url, made) as app:
        assert app.call("GET", "/v1/adapters")["items"] == []
    look(page, "keys")
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="classify", exact=True))
    row.get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert status(url, made) == 401
    page.get_by_role("button", name="Revoke key").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("alert")).to_contain_text("last")


@pytest.fixture
def mine(client: Client, cluster: Cluster, clip: FrozenCLIP) -> str:
    """An adapter with one version, which is not live."""
    add_version(cluster.records, clip, client.tenant, "mine", 1)
    return "mine"


@pytest.mark.parametrize(
    ("language", "file"), [("curl", "ask.sh"), ("Python", "ask.py"), ("JavaScript", "ask.mjs")]
)
def test_the_code_that_is_shown_runs_with_the_key_that_was_made_for_it(
    page: Page, url: str, key: str, mine: str, tmp_path: Path, language: str, file: str
) -> None:
    program = PROGRAMS[Path(file).suffix]
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    sign_in(page, url, key)
    page.evaluate("location.hash = '#/try'")
    names = ['it\'s a "crab"', "Küche"]
    page.get_by_label("Names to choose from").fill("\n".join(names))
    page.locator("input[type=file]").set_input_files(photos("lotus")[0])
    page.get_by_role("tab", name="curl").focus()
    while page.get_by_role("tab", name=language).get_attribute("aria-selected") != "true":
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Make a key for this app").click()
    expect(page.locator(".code code")).to_contain_text("rma_")
    (tmp_path / file).write_text(page.locator(".code code").text_content() or "")
    shutil.copy(photos("lotus")[0], tmp_path / "photo.jpg")
    done = subprocess.run([program, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(name in done.stdout or json.dumps(name)[1:-1] in done.stdout for name in names)


def test_nothing_but_its_own_scripts_may_run(page: Page, url: str) -> None:
    response = page.goto(url)
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


def test_the_api_reference_is_styled_and_cannot_read_the_session(
    page: Page, url: str, key: str
) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    sign_in(page, url, key)
    assert page.evaluate("sessionStorage.length") == 1
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(f"{url}/docs")
    session = page.context.new_cdp_session(
        page
    )  # page.evaluate waits for a page's script, for ever

    def value(expression: str) -> str | int:
        body = f"try {{ return {expression} }} catch (e) {{ return e.name }}"
        answer = session.send("Runtime.evaluate", {"expression": f"(() => {{ {body} }})()"})
        return answer["result"]["value"]

    assert value("sessionStorage.length") == "SecurityError"
    assert value("getComputedStyle(document.querySelector('section')).borderRadius") == "12px"
    assert value("document.documentElement.scrollWidth") <= 375
    assert [one for one in asked if not one.startswith(url)] == []
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_api_reference_can_be_read_by_all(
    page: Page, url: str, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)

    def without_policy(route: Route) -> None:  # else axe's own script could not run
        answer = route.fetch()
        headers = {k: v for k, v in answer.headers.items() if k != "content-security-policy"}
        route.fulfill(response=answer, headers=headers)

    page.route("**/docs", without_policy)
    page.goto(f"{url}/docs")
    assert [v["id"] for v in Axe().run(page).response["violations"]] == []
