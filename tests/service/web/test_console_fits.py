"""Fits in the console: they are listed, they survive a reload and a service that stops."""

import pytest
from playwright.sync_api import Page, expect

from service.client import Client
from tests.support.cluster import Cluster
from tests.support.console import CHROMIUM, FIT_MS, Look, photos, sign_in

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

LONG = {"epochs": 150}  # a minute, for a page to be left and a service to be stopped meanwhile


@pytest.fixture
def dataset(client: Client) -> str:
    """Two classes of eight photos."""
    made = client.create_dataset("Beach")
    for name in ("crab", "lotus"):
        assert all(a["accepted"] for a in client.upload_class(made, name, photos(name)[:8]))
    return made


def test_a_fit_is_listed_with_its_stage_after_the_page_was_left(
    page: Page, url: str, key: str, client: Client, dataset: str, look: Look
) -> None:
    client.create_job(dataset, "shore", params={"epochs": 20})
    client.create_job(dataset, "later", params=LONG)
    sign_in(page, url, key)
    page.get_by_role("link", name="Fits").click()
    running = page.get_by_role("region", name="Running")
    expect(running.get_by_text("On Beach").first).to_be_visible()
    expect(running.get_by_text("%").first).to_be_visible(timeout=FIT_MS)
    look(page, "fits")
    page.reload()
    shore = page.get_by_role("link", name="shore")
    expect(shore).to_contain_text("photos it had not seen", timeout=FIT_MS)
    later = page.locator("a[href*='#/fits/']").filter(has_text="later")  # not its instant version's
    expect(later).to_contain_text("left", timeout=FIT_MS)
    for place in (f"data/{dataset}", "classifiers"):
        page.evaluate(f"location.hash = '#/{place}'")
        expect(later).to_contain_text("accuracy, ", timeout=FIT_MS)
    later.click()
    page.get_by_role("button", name="Stop this fit").click()
    stopped = "The fit was stopped. Instant version 1 was published."
    expect(page.locator(".lead")).to_have_text(stopped, timeout=FIT_MS)


def test_a_failed_fit_is_listed_with_its_reason(
    page: Page, url: str, key: str, client: Client, dataset: str, cluster: Cluster
) -> None:
    (worker,) = cluster.workers
    worker.stop()
    client.create_job(dataset, "doomed")
    for item in list(client.pages(f"/v1/datasets/{dataset}/images", label="lotus")):
        client.call("DELETE", f"/v1/datasets/{dataset}/images/{item['image']}")
    worker.start()
    worker.wait()
    sign_in(page, url, key)
    page.get_by_role("link", name="Fits").click()
    doomed = page.get_by_role("link", name="doomed")
    expect(doomed).to_contain_text("Failed: ", timeout=FIT_MS)
    expect(doomed).to_contain_text("at least 2 classes")


def test_a_fit_is_watched_on_when_the_service_comes_back(
    page: Page, url: str, key: str, client: Client, dataset: str, cluster: Cluster
) -> None:
    job = client.create_job(dataset, "shore", params={"epochs": 60})["job"]
    sign_in(page, url, key)
    page.evaluate(f"location.hash = '#/fits/{job}'")
    expect(page.locator(".lead")).to_contain_text("%", timeout=FIT_MS)
    (server,) = cluster.servers
    expect(page.get_by_text("Instant version 1 answers already")).to_be_visible()
    server.stop()
    expect(page.get_by_text("this page asks again")).to_be_visible()
    server.start()
    server.wait()
    expect(page.get_by_text("this page asks again")).to_be_hidden(timeout=FIT_MS)
    expect(page.locator(".lead")).to_have_text("Version 2 is ready and live.", timeout=FIT_MS)


def test_a_second_fit_is_offered_as_a_version_of_the_same_classifier(
    page: Page, url: str, key: str, client: Client, dataset: str
) -> None:
    job = client.create_job(dataset, "pond-life", params={"epochs": 1})
    assert [e["state"] for e in client.job_events(job["job"])][-1] == "succeeded"
    sign_in(page, url, key)
    page.evaluate(f"location.hash = '#/data/{dataset}'")
    expect(page.get_by_label("Its name")).to_have_value("pond-life")
    expect(page.get_by_text("A new version of pond-life")).to_be_visible()
    page.get_by_label("Its name").fill("other")
    expect(page.get_by_text("A new classifier of this name")).to_be_visible()
    page.get_by_label("Its name").fill("Küche")
    page.get_by_role("button", name="Fit").click()
    why = page.get_by_label("Its name").evaluate("(field) => field.validationMessage")
    assert why.startswith("Letters without accents")
