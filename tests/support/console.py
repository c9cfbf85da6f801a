"""The console in a real Chromium: how it starts, how one signs in, how its pictures are taken."""

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from service.demo.__main__ import PHOTOS
from tests.support.paths import ROOT

CHROMIUM = shutil.which("chromium")
PICTURES = ROOT / "docs" / "console"
WIDTHS = {1440: 900, 390: 844}  # and the height of such a window
LAN = "gpu-host.lan"  # a name that is not localhost, for what browsers refuse on plain HTTP
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
    f"--host-resolver-rules=MAP {LAN} 127.0.0.1",
]
FIT_MS = 120_000  # on a busy machine

Look = Callable[[Page, str], None]


def photos(name: str) -> list[Path]:
    return sorted((PHOTOS / name).iterdir())


def sign_in(page: Page, url: str, key: str, title: str = "Photos") -> None:
    page.goto(url)
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()


def take_picture(page: Page, file: Path) -> None:
    """A picture of the page from its top, in 256 colours: a quarter of the bytes."""
    file.parent.mkdir(exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=file)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
