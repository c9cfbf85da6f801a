"""The pictures of a data set: listed, shown, moved, deleted, and by their owner alone."""

import hashlib
import io
import zipfile
from collections.abc import Iterator

import pytest
from PIL import Image

from service.client import Client
from service.records.restore import restore
from tests.support.api import Api, upload
from tests.support.records import usage_of
from training.data import Sample


@pytest.fixture
def tenant(api: Api) -> Client:
    return api.new_tenant()


@pytest.fixture
def dataset(tenant: Client, samples: list[Sample]) -> str:
    return upload(tenant, samples[::6])


def listed(tenant: Client, dataset: str, **query: object) -> list[dict]:
    items, cursor = [], None
    while True:
        params = query | ({"cursor": cursor} if cursor else {})
        page = tenant.call("GET", f"/v1/datasets/{dataset}/images", params=params)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None:
            return items


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_every_picture_is_listed_with_its_class_name_and_digest(
    tenant: Client, dataset: str, samples: list[Sample], limit: int
) -> None:
    found = {(i["image"], i["label"], i["bytes"]) for i in listed(tenant, dataset, limit=limit)}
    sent = {(hashlib.sha256(s.data).hexdigest(), s.label, len(s.data)) for s in samples[::6]}
    assert found == sent


def test_many_pictures_come_in_pages(api: Api, tenant: Client) -> None:
    dataset = tenant.create_dataset("many")
    records = api.components.records.datasets
    for number in range(700):
        records.add(tenant.tenant, dataset, Sample(f"c{number % 3}", f"{number}", b"%d" % number))
    page = tenant.call("GET", f"/v1/datasets/{dataset}/images", params={"limit": 100})
    assert 50 <= len(page["items"]) <= 200
    assert len({i["image"] for i in listed(tenant, dataset, limit=100)}) == 700
    of_one = listed(tenant, dataset, limit=100, label="c1")
    assert {i["label"] for i in of_one} == {"c1"}
    assert len(of_one) == 233


@pytest.fixture
def image(tenant: Client, dataset: str) -> Iterator[dict]:
    return listed(tenant, dataset)[0]


def test_a_picture_is_given_back_as_it_was_sent_or_small_and_upright(
    tenant: Client, dataset: str, image: dict
) -> None:
    path = f"/v1/datasets/{dataset}/images/{image['image']}"
    whole = tenant.http.get(path)
    assert hashlib.sha256(whole.content).hexdigest() == image["image"]
    assert whole.headers["content-type"] == "image/jpeg"
    assert whole.headers["x-content-type-options"] == "nosniff"
    small = tenant.http.get(path, params={"size": 160})
    assert Image.open(io.BytesIO(small.content)).size == (160, 160)
    assert small.headers["etag"] != whole.headers["etag"]
    again = tenant.http.get(
        path, params={"size": 160}, headers={"if-none-match": small.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_moved_picture_is_in_its_new_class_also_after_a_restore(
    api: Api, tenant: Client, dataset: str, image: dict
) -> None:
    path = f"/v1/datasets/{dataset}/images/{image['image']}"
    before = tenant.call("GET", f"/v1/datasets/{dataset}")["labels"]
    moved = tenant.call("PATCH", path, json={"label": "elsewhere"})
    assert moved == image | {"label": "elsewhere"}
    after = tenant.call("GET", f"/v1/datasets/{dataset}")["labels"]
    assert after.get(image["label"], 0) == before[image["label"]] - 1
    assert after["elsewhere"] == 1
    used = usage_of(api.components.records, tenant.tenant)
    restore(api.components.records)
    assert tenant.call("GET", f"/v1/datasets/{dataset}")["labels"] == after
    assert usage_of(api.components.records, tenant.tenant) == used
    assert tenant.http.get(path).status_code == 200


def test_what_was_being_moved_when_a_server_died_is_in_one_class_after_a_restore(
    api: Api, tenant: Client, dataset: str, image: dict
) -> None:
    records = api.components.records.datasets
    stored = records.image(tenant.tenant, dataset, image["image"])
    sample = Sample("elsewhere", stored.name, records.data(tenant.tenant, dataset, stored.digest))
    folder = f"tenants/{tenant.tenant}/datasets/{dataset}/images/{stored.digest}"
    records.put_files((f"{folder}/{'0' * 16}", f"{folder}/{'0' * 16}.{'0' * 16}.json"), sample)
    # and then it died
    used = usage_of(api.components.records, tenant.tenant)
    for name in list(api.components.records.store.scan_iter(match=f"*{dataset}*")):
        api.components.records.store.delete(name)
    restore(api.components.records)
    assert usage_of(api.components.records, tenant.tenant) == used
    assert [i["image"] for i in listed(tenant, dataset)].count(image["image"]) == 1
    assert tenant.http.get(f"/v1/datasets/{dataset}/images/{image['image']}").status_code == 200


def test_a_deleted_picture_is_gone_and_its_quota_given_back(
    api: Api, tenant: Client, dataset: str, image: dict
) -> None:
    path = f"/v1/datasets/{dataset}/images/{image['image']}"
    before = usage_of(api.components.records, tenant.tenant)
    tenant.call("DELETE", path)
    after = usage_of(api.components.records, tenant.tenant)
    assert (after.images, after.bytes) == (before.images - 1, before.bytes - image["bytes"])
    for method in ("GET", "DELETE"):
        assert tenant.http.request(method, path).status_code == 404
    assert tenant.http.patch(path, json={"label": "a"}).status_code == 404


@pytest.mark.parametrize(
    ("method", "query", "body", "field"),
    [
        ("GET", "?size=8", None, "size"),
        ("GET", "?size=9000", None, "size"),
        ("PATCH", "", {"label": " "}, "label"),
        ("PATCH", "", {"label": "x" * 101}, "label"),
        ("PATCH", "", {}, "label"),
    ],
)
def test_bad_input_names_its_field(
    tenant: Client, dataset: str, image: dict, method: str, query: str, body: dict, field: str
) -> None:
    path = f"/v1/datasets/{dataset}/images/{image['image']}{query}"
    response = tenant.http.request(method, path, json=body)
    assert response.status_code == 422
    assert field in response.json()["errors"][0]["field"]


def test_another_tenant_and_a_key_that_only_classifies_see_none_of_it(
    api: Api, tenant: Client, dataset: str, image: dict
) -> None:
    lists = f"/v1/datasets/{dataset}/images"
    one = f"{lists}/{image['image']}"
    calls = [("GET", lists), ("GET", one), ("PATCH", one), ("DELETE", one)]
    made = tenant.call("POST", "/v1/keys", json={"scope": "classify"})["api_key"]
    with Client(api.url, made) as classifies:
        for other, status in ((api.new_tenant(), 404), (classifies, 403)):
            for method, path in calls:
                body = {"label": "a"} if method == "PATCH" else None
                assert other.http.request(method, path, json=body).status_code == status
    assert len(listed(tenant, dataset)) > 0


def test_a_cursor_of_another_list_is_refused(tenant: Client, dataset: str) -> None:
    path = f"/v1/datasets/{dataset}/images"
    response = tenant.http.get(path, params={"cursor": "dataset_1"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "cursor"


def test_what_may_be_wrong_with_what_was_taken_is_said(
    tenant: Client, samples: list[Sample]
) -> None:
    photo = Image.open(io.BytesIO(samples[0].data)).convert("RGB")
    whole, packed = io.BytesIO(), io.BytesIO()
    photo.save(whole, "JPEG")
    with zipfile.ZipFile(packed, "w") as archive:  # zipfile writes ASCII names without the flag
        archive.writestr("L_wenzahn/1.png", samples[1].data)
        archive.writestr("rose/cut.jpg", whole.getvalue()[:-8])
        archive.writestr("@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", whole.getvalue())
    packed = io.BytesIO(packed.getvalue().replace(b"L_wenzahn", b"L\x94wenzahn"))
    dataset = tenant.create_dataset("named by an old packer")
    path = f"/v1/datasets/{dataset}/images"
    answer = tenant.call("POST", path, files={"archive": ("a.zip", packed.getvalue())})
    assert answer["labels"] == {"Löwenzahn": 1, "rose": 1}
    cut, name = sorted(answer["warnings"], reverse=True)
    assert cut.startswith("rose/cut.jpg: the JPEG is cut short")
    assert "'Löwenzahn/1.png'" in name
