"""Curating photos in the console: choosing, renaming, a closer look, zips, the camera."""

import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.client import Client
from tests.support.console import CHROMIUM, Look, photos, sign_in
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

DROP = """(zone, [name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    zone.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


@pytest.fixture
def dataset(client: Client) -> str:
    """Seven crabs and three lotuses."""
    made = client.create_dataset("Shore")
    for name, count in (("crab", 7), ("lotus", 3)):
        assert all(a["accepted"] for a in client.upload_class(made, name, photos(name)[:count]))
    return made


@pytest.fixture
def shore(page: Page, url: str, key: str, dataset: str) -> Page:
    """Its page."""
    sign_in(page, url, key)
    page.evaluate(f"location.hash = '#/data/{dataset}'")
    expect(page.get_by_role("heading", name="Shore")).to_be_visible()
    return page


def of(page: Page, name: str):
    return page.get_by_role("region", name=name, exact=True)


def labels(client: Client, dataset: str) -> dict[str, int]:
    return client.call("GET", f"/v1/datasets/{dataset}")["labels"]


def test_shift_chooses_a_range_and_choose_all_a_class(shore: Page) -> None:
    boxes = of(shore, "crab").get_by_role("checkbox")
    boxes.nth(1).check()
    of(shore, "crab").locator("img").nth(5).click(modifiers=["Shift"])
    expect(shore.get_by_text("5 photos chosen")).to_be_visible()
    shore.get_by_role("button", name="Choose all of lotus").click()
    expect(shore.get_by_text("8 photos chosen")).to_be_visible()
    shore.get_by_role("button", name="Choose all of lotus").click()
    expect(shore.get_by_text("5 photos chosen")).to_be_visible()
    shore.get_by_role("button", name="Choose none").click()
    expect(boxes.nth(1)).not_to_be_checked()


def test_a_range_is_chosen_by_keyboard(shore: Page) -> None:
    boxes = of(shore, "crab").get_by_role("checkbox")
    boxes.nth(0).focus()
    shore.keyboard.press("Space")
    boxes.nth(3).focus()
    shore.keyboard.press("Shift+Space")
    expect(shore.get_by_text("4 photos chosen")).to_be_visible()


def test_a_class_is_renamed_and_merged_and_that_is_undone(
    shore: Page, client: Client, dataset: str
) -> None:
    rename(shore, "crab", "king crab")
    expect(of(shore, "king crab").locator("img")).to_have_count(7)
    assert labels(client, dataset) == {"king crab": 7, "lotus": 3}
    rename(shore, "king crab", "lotus")
    shore.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(of(shore, "lotus").locator("img")).to_have_count(10)
    shore.get_by_role("button", name="Undo").click()
    expect(of(shore, "king crab").locator("img")).to_have_count(7)
    assert labels(client, dataset) == {"king crab": 7, "lotus": 3}


def rename(page: Page, name: str, new: str) -> None:
    page.get_by_role("button", name=f"Rename {name}").click()
    page.get_by_role("textbox", name=f"New name of {name}").fill(new)
    page.keyboard.press("Enter")


def test_deleted_photos_can_be_brought_back(shore: Page, client: Client, dataset: str) -> None:
    shore.get_by_role("button", name="Choose all of lotus").click()
    shore.get_by_role("button", name="Delete", exact=True).click()
    shore.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(shore.get_by_text("Deleted: 3 photos.")).to_be_visible()
    assert labels(client, dataset) == {"crab": 7}
    shore.get_by_role("button", name="Undo").click()
    expect(of(shore, "lotus").locator("img")).to_have_count(3)
    assert labels(client, dataset) == {"crab": 7, "lotus": 3}


def test_a_photo_is_enlarged_and_its_neighbours_by_the_arrow_keys(shore: Page, look: Look) -> None:
    of(shore, "crab").get_by_role("button", name=re.compile("Enlarge")).first.click()
    large = shore.get_by_role("dialog", name="Photo")
    expect(large).to_contain_text("crab · 1 of 7")
    width = "(img) => img.naturalWidth"  # 0 until it is there
    wait_for(lambda: large.locator("img").evaluate(width) > 128, 20)
    look(shore, "enlarged")
    shore.keyboard.press("ArrowRight")
    expect(large).to_contain_text("crab · 2 of 7")
    shore.keyboard.press("Escape")
    expect(large).to_have_count(0)


@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_a_zip_brings_its_folders_as_classes(
    shore: Page, client: Client, dataset: str, tmp_path: Path, way: str
) -> None:
    packed = tmp_path / "more.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for photo in photos("cup")[:2]:
            archive.write(photo, f"cup/{photo.name}")
    if way == "chosen":
        shore.locator("input[type=file][accept]").set_input_files(packed)
    else:
        zone = shore.get_by_role("region", name="Add photos")
        zone.evaluate(DROP, ["more.zip", list(packed.read_bytes())])
    expect(shore.get_by_text("2 new photos added.")).to_be_visible()
    expect(of(shore, "cup").locator("img")).to_have_count(2)
    assert labels(client, dataset)["cup"] == 2


def test_chosen_photos_wait_for_their_class(shore: Page) -> None:
    zone = shore.get_by_role("region", name="Add photos")
    zone.evaluate(DROP, ["a cup.jpg", list(photos("cup")[0].read_bytes())])
    expect(shore.get_by_role("alert")).to_contain_text("type the class")
    shore.get_by_label("Class of these photos").fill("cup")
    shore.get_by_role("button", name="Add 1 photo").click()
    expect(shore.get_by_text("1 new photo added.")).to_be_visible()
    expect(of(shore, "cup").get_by_role("checkbox", name="a cup.jpg")).to_be_visible()


def test_the_camera_adds_photos_of_a_class(shore: Page, url: str) -> None:
    shore.context.grant_permissions(["camera"], origin=url)
    shore.get_by_label("Class of these photos").fill("me")
    shore.get_by_role("button", name="Use the camera").click()
    shore.get_by_role("button", name="Take the picture").click()
    expect(of(shore, "me").locator("img")).to_have_count(1)
    shore.get_by_role("button", name="Close the camera").click()
    expect(shore.get_by_label("Camera", exact=True)).to_be_hidden()


@pytest.mark.parametrize("width", [320, 390, 720])  # 720: 1440 pixels at 200 %
def test_long_names_fit_a_narrow_window(
    page: Page, url: str, key: str, client: Client, width: int
) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"
    made = client.create_dataset(long)
    for name in ("crab", "lotus"):
        assert all(a["accepted"] for a in client.upload_class(made, f"{name} {long}", photos(name)))
    page.set_viewport_size({"width": width, "height": 800})
    sign_in(page, url, key)
    for place, heading in (("data", "Photos"), (f"data/{made}", long), ("keys", "API keys")):
        page.evaluate(f"location.hash = '#/{place}'")
        expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
