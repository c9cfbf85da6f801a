"""What tests of the console share: a real Chromium, a server with a worker, a tenant's key."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from service.client import Client
from tests.support.cluster import Cluster
from tests.support.console import CHROMIUM, PICTURES, QUIET, WIDTHS, Look, take_picture

CUT_OFF = """() => [...document.querySelectorAll("main button, main a")]
    .filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML)"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server with a worker behind it."""
    made = Cluster(tmp_path_factory.mktemp("site"), servers=1, workers=1)
    with made.running():
        yield made


@pytest.fixture
def url(cluster: Cluster) -> str:
    return cluster.servers[0].url


@pytest.fixture
def client(cluster: Cluster) -> Client:
    """A new tenant's."""
    tenant, made = cluster.new_tenant()
    made.tenant = tenant
    return made


@pytest.fixture
def key(client: Client) -> str:
    """The new tenant's first key."""
    return client.http.headers["authorization"].split()[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a window of its own; at the end nothing has failed in it without being told."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    yield opened
    context.close()
    assert broken == []


@pytest.fixture
def look(request: pytest.FixtureRequest) -> Look:
    """Judges a page at each width, light and dark: by axe, and nothing is cut off.

    Takes its pictures when asked to.
    """

    def judge(page: Page, name: str) -> None:
        before = page.viewport_size
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.evaluate(CUT_OFF) == [], name
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)
                found = Axe().run(page).response["violations"]
                serious = [v for v in found if v["impact"] in ("serious", "critical")]
                assert not serious, [(v["id"], v["nodes"][0]["html"]) for v in serious]
                if request.config.getoption("--screenshots"):
                    take_picture(page, PICTURES / f"{name}-{width}-{scheme}.png")
        page.set_viewport_size(before)

    return judge
