"""What the console says and does when something is missing: the service, or HTTPS."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.cluster import Cluster
from tests.support.console import CHROMIUM, FIT_MS, LAN, photos, sign_in

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def test_copy_shows_that_it_copied(page: Page, url: str, key: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    show_code(page, url, key)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    code = page.locator(".code code").text_content()
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_on_plain_http_copy_and_camera_say_why_they_cannot(page: Page, url: str, key: str) -> None:
    lan = url.replace("127.0.0.1", LAN)
    show_code(page, lan, key)
    assert not page.evaluate("isSecureContext")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Browsers copy on HTTPS and on localhost alone.")).to_be_visible()
    chosen = page.evaluate("getSelection().toString()")
    assert chosen.strip() == page.locator(".code code").inner_text().strip()
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("alert")).to_contain_text("the camera on HTTPS and on localhost alone")


def show_code(page: Page, url: str, key: str) -> None:
    sign_in(page, url, key)
    page.evaluate("location.hash = '#/try'")
    page.get_by_label("Names to choose from").fill("crab, lotus")
    page.locator("input[type=file]").set_input_files(photos("lotus")[0])
    expect(page.get_by_role("tab", name="curl")).to_be_visible()


def test_a_page_recovers_by_itself_when_the_service_is_back(
    page: Page, url: str, key: str, cluster: Cluster
) -> None:
    sign_in(page, url, key)
    (server,) = cluster.servers
    server.stop()
    page.get_by_role("link", name="Classifiers").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    server.start()
    server.wait()
    expect(page.get_by_role("heading", level=1, name="Classifiers")).to_be_visible(timeout=FIT_MS)
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_what_was_typed_waits_until_the_service_is_back(
    page: Page, url: str, key: str, cluster: Cluster
) -> None:
    sign_in(page, url, key)
    (server,) = cluster.servers
    server.stop()
    page.get_by_label("Name").fill("Pond")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    server.start()
    server.wait()
    expect(page.get_by_role("alert")).to_contain_text("The service is back.", timeout=FIT_MS)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Pond")).to_be_visible()
