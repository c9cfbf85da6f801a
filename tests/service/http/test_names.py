"""Names that clients send: one form everywhere, and two that read the same are refused."""

import io
import json
import zipfile

import pytest

from service.client import Client
from tests.support.api import Api
from training.data import Sample

NFD, NFC = "Lo\u0308wenzahn", "L\u00f6wenzahn"


@pytest.fixture
def dataset(tenant: Client) -> str:
    return tenant.create_dataset("names")


def send(tenant: Client, dataset: str, label: str, photo: bytes):
    path = f"/v1/datasets/{dataset}/images"
    return tenant.http.post(path, data={"label": label}, files={"files": ("a.jpg", photo)})


def reasons(response) -> str:
    assert response.status_code == 422, response.text
    return " ".join(problem["reason"] for problem in response.json()["errors"])


def test_an_upload_stores_a_label_in_its_normal_form(
    tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    labels = (NFD, NFC, "sun\u00a0flower ", "to\u00admato", "👩\u200d🌾")
    answers = [
        send(tenant, dataset, label, photo.data)
        for label, photo in zip(labels, samples, strict=False)
    ]
    assert answers[-1].json()["labels"] == {NFC: 2, "sun flower": 1, "tomato": 1, "👩\u200d🌾": 1}


def test_an_upload_of_a_label_that_reads_like_another_names_both(
    tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    send(tenant, dataset, "sun flower", samples[0].data)
    said = reasons(send(tenant, dataset, "Sun_Flower", samples[1].data))
    assert "'Sun_Flower'" in said and "'sun flower'" in said
    assert tenant.call("GET", f"/v1/datasets/{dataset}")["labels"] == {"sun flower": 1}


@pytest.mark.parametrize("label", ["", " \u200b", "a\0b", "a\nb", "x" * 101, "zq " * 33])
def test_a_label_that_cannot_be_one_is_422_where_it_enters(
    tenant: Client, dataset: str, samples: list[Sample], label: str
) -> None:
    assert reasons(send(tenant, dataset, label, samples[0].data))


def test_an_archives_folders_that_read_the_same_are_told_and_the_first_is_kept(
    tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for folder, photo in zip(("Rose", "rose", NFD, NFC), samples, strict=False):
            archive.writestr(f"{folder}/a.jpg", photo.data)
    files = {"archive": ("photos.zip", stream.getvalue())}
    answer = tenant.http.post(f"/v1/datasets/{dataset}/images", files=files).json()
    assert answer["labels"] == {"Rose": 1, NFC: 2}
    (left,) = answer["rejected"]
    assert left["file"] == "rose/a.jpg"
    assert "'Rose'" in left["reason"] and "'rose'" in left["reason"]


def test_a_class_is_renamed_by_moving_its_photos_but_two_are_not_made_alike(
    tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    send(tenant, dataset, "rose", samples[0].data)
    send(tenant, dataset, "tulip", samples[1].data)
    path = f"/v1/datasets/{dataset}/images"
    images = {image["label"]: image["image"] for image in tenant.call("GET", path)["items"]}
    move = {"label": "Rose"}
    assert reasons(tenant.http.patch(f"{path}/{images['tulip']}", json=move))
    assert tenant.call("PATCH", f"{path}/{images['rose']}", json=move)["label"] == "Rose"
    labels = tenant.call("GET", f"/v1/datasets/{dataset}")["labels"]
    assert labels == {"Rose": 1, "tulip": 1}


def test_a_job_on_labels_that_an_earlier_release_took_names_those_that_read_the_same(
    api: Api, tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    for number, label in enumerate(("rose", "Rose") * 4):
        photo = Sample(label, "a.jpg", samples[number].data)
        api.components.records.datasets.add(tenant.tenant, dataset, photo)
    answer = tenant.http.post("/v1/jobs", json={"dataset": dataset, "adapter": "flowers"})
    assert "'rose'" in reasons(answer) and "'Rose'" in reasons(answer)


def test_a_job_whose_template_makes_a_label_too_long_is_422(
    tenant: Client, dataset: str, samples: list[Sample]
) -> None:
    for number, label in enumerate(("a rather long name of a flower", "rose") * 4):
        send(tenant, dataset, label, samples[number].data)
    template = "one of " + "very " * 24 + "many photos of a {}."
    job = {"dataset": dataset, "adapter": "flowers", "params": {"template": template}}
    assert "tokens" in reasons(tenant.http.post("/v1/jobs", json=job))


def ask(tenant: Client, photo: bytes, **options):
    return tenant.http.post("/v1/classify", files={"files": ("a.jpg", photo)}, **options)


@pytest.mark.parametrize(
    "classes", [["Sunflower", "sunflower", "rose"], [NFD, NFC], ["sun_flower", "sun flower"]]
)
def test_classify_refuses_names_that_read_the_same_and_names_both(
    tenant: Client, samples: list[Sample], classes: list[str]
) -> None:
    answer = ask(tenant, samples[0].data, data={"classes": json.dumps(classes)})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "classes"


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"classes": "rose,tulip"}},
        {"data": {"classes": '["rose", "tulip"]'}},
        {"data": {"classes": "rose\ntulip"}},
        {"data": {"classes": ["rose", "tulip"]}},
        {"params": {"classes": "rose,tulip"}},
        {"params": {"classes": ["rose", "tulip"]}},
        {"params": {"classes": '["rose","tulip"]', "top_k": "2"}},
        {"data": {"top_k": "2"}, "params": {"classes": "rose,tulip"}},
    ],
)
def test_names_are_read_in_each_way_that_clients_write_them(
    tenant: Client, samples: list[Sample], options: dict
) -> None:
    answer = ask(tenant, samples[0].data, **options)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert {p["label"] for p in result["predictions"]} == {"rose", "tulip"}


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"classes": "rose"}},
        {"data": {"classes": ""}},
        {"data": {"classes": "{}"}},
        {"data": {"classes": '{"rose": 1}'}},
        {"data": {"classes": '["crab", 3]'}},
        {"data": {"classes": '[["crab"], "rose"]'}},
        {"params": {"classes": "rose"}},
        {"params": {"classes": "17"}},
        {"params": {"classes": "[1, 2]"}},
    ],
)
def test_names_that_are_none_are_422_with_an_example(
    tenant: Client, samples: list[Sample], options: dict
) -> None:
    said = reasons(ask(tenant, samples[0].data, **options))
    assert 'such as ["rose", "tulip"]' in said and "Value error" not in said


def test_an_option_in_the_query_and_in_the_body_is_422(
    tenant: Client, samples: list[Sample]
) -> None:
    body = {"data": {"classes": "rose,tulip"}, "params": {"classes": "crab,cup"}}
    assert "in the query and in the body" in reasons(ask(tenant, samples[0].data, **body))


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("filename*=UTF-8''caf%C3%A9.jpg", "café.jpg"),
        ("filename*=ISO-8859-1'en'caf%E9.jpg", "café.jpg"),
        ("filename*=nobodys-charset''a.jpg", "a.jpg"),
        ("filename=\"plain.jpg\"; filename*=UTF-8''caf%C3%A9.jpg", "plain.jpg"),
    ],
)
def test_a_file_named_in_the_extended_notation_is_a_file(
    tenant: Client, samples: list[Sample], disposition: str, name: str
) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; {disposition}\r\n\r\n'
    names = '--b\r\nContent-Disposition: form-data; name="classes"\r\n\r\nrose,tulip\r\n--b--\r\n'
    body = head.encode() + samples[0].data + b"\r\n" + names.encode()
    answer = tenant.http.post(
        "/v1/classify", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["file"] == name


def test_a_text_too_long_for_embeddings_names_its_input(tenant: Client) -> None:
    answer = tenant.http.post("/v1/embeddings", json={"input": ["short", "word " * 90]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "input[1]"
