"""Bodies that are small to send and long to read end nobody's wait but their sender's."""

import base64
import json
import threading
import time

import httpx
import openai
import pytest

from service.client import Client
from service.http.schemas import class_names
from tests.support.bodies import many
from training.data import Sample


def send(client: Client, path: str, body: bytes, key: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return client.http.post(path, content=body, headers=headers)


WRONG = {
    "empty pictures": ("{}", '{"images": [', "]}"),
    "empty lists": ("[]", "[", "]"),
    "numbers as classes": ("1", '{"images": [], "classes": [', "]}"),
    "numbers as input": ("1", '{"input": [', "]}"),
}


@pytest.mark.parametrize("path", ["/classify", "/v1/classify", "/v1/embeddings", "/v1/datasets"])
@pytest.mark.parametrize("wrong", WRONG)
def test_many_wrong_items_are_refused_at_once_by_a_short_answer(
    tenant: Client, path: str, wrong: str
) -> None:
    response = send(tenant, path, many(*WRONG[wrong], size=4_000_000))
    assert response.status_code in (413, 422), response.text
    assert len(response.content) < 10_000


@pytest.mark.parametrize("wrong", WRONG)
def test_others_are_answered_while_a_large_wrong_body_is_read(tenant: Client, wrong: str) -> None:
    body, waits = many(*WRONG[wrong], size=16_000_000), list[float]()
    sender = threading.Thread(target=send, args=(tenant, "/v1/classify", body))
    sender.start()
    with httpx.Client(base_url=tenant.http.base_url) as other:
        while sender.is_alive():
            started = time.monotonic()
            assert other.get("/healthz").status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.01)
    sender.join()
    assert max(waits, default=0.0) < 1.0


def test_unknown_fields_are_counted_not_listed(tenant: Client) -> None:
    body = json.dumps({str(i): 1 for i in range(50_000)}).encode()
    response = send(tenant, "/v1/classify", body)
    assert response.status_code == 422
    assert len(response.json()["errors"]) <= 20


@pytest.mark.parametrize(
    "given",
    [
        ["rose", "tulip"],
        ['["rose", "tulip"]'],
        ["rose,tulip"],
        "rose, tulip",
        "rose\ntulip\n",
        ["rose\r\ntulip"],
        '["rose", "tulip"]',
    ],
    ids=str,
)
def test_class_names_are_read_as_clients_write_them(given: object) -> None:
    assert class_names(given) == ["rose", "tulip"]


@pytest.mark.parametrize(
    "given",
    ["rose", "", [], ["rose"], '{"rose": 1}', "3", 3, {"rose": 1}, '["rose"]', ","],
    ids=str,
)
def test_what_names_fewer_than_two_classes_is_refused_with_an_example(given: object) -> None:
    with pytest.raises(ValueError, match="rose,tulip"):
        class_names(given)


def test_names_by_commas_are_classes_in_a_form_and_in_json(
    tenant: Client, samples: list[Sample]
) -> None:
    photo = samples[0].data
    form = tenant.http.post(
        "/classify", files={"files": ("a.jpg", photo)}, data={"classes": "crab,lotus"}
    )
    body = {"images": [{"b64": base64.b64encode(photo).decode()}], "classes": "crab,lotus"}
    both = form, tenant.http.post("/classify", json=body)
    labels = [[p["label"] for p in r.json()["results"][0]["predictions"]] for r in both]
    assert labels[0] == labels[1]
    assert sorted(labels[0]) == ["crab", "lotus"]


def dialects(data: bytes) -> dict[str, str]:
    plain = base64.b64encode(data).decode()
    return {
        "plain": plain,
        "line breaks": "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)),
        "data URI in capitals, behind a space": f" DATA:image/jpeg;base64,{plain}",
        "data URI": f"data:image/jpeg;base64,{plain}",
        "base64url": base64.urlsafe_b64encode(data).decode(),
        "no padding": plain.rstrip("="),
    }


def test_base64_is_read_in_all_its_dialects(tenant: Client, samples: list[Sample]) -> None:
    answers = [
        tenant.http.post(
            "/classify", json={"images": [{"b64": text}], "classes": ["crab", "lotus"]}
        ).json()["results"][0]["predictions"]
        for text in dialects(samples[0].data).values()
    ]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_balancers_may_ask_for_the_head_alone(tenant: Client, path: str) -> None:
    response = tenant.http.head(path)
    assert response.status_code == 200
    assert not response.content


def test_openais_client_reads_embeddings_and_models(tenant: Client) -> None:
    key = tenant.http.headers["authorization"].split()[1]
    with openai.OpenAI(
        base_url=f"{str(tenant.http.base_url).rstrip('/')}/v1", api_key=key
    ) as client:
        packed = client.embeddings.create(model="any", input=["a crab", "a cup"], user="someone")
        plain = client.embeddings.create(
            model="any", input=["a crab", "a cup"], encoding_format="float"
        )
        assert [model.id for model in client.models.list()] == ["bundled"]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


@pytest.mark.parametrize("sign", ["\0", "\a", "\x1b", "\x85"], ids=ascii)
def test_no_name_holds_a_control_character(
    tenant: Client, samples: list[Sample], sign: str
) -> None:
    picture = {"b64": base64.b64encode(samples[0].data).decode()}
    asked = {"images": [picture], "classes": ["crab", "lotus"]}
    wrong: list[tuple[str, dict[str, object]]] = [
        ("/v1/classify", asked | {"classes": ["crab", f"lo{sign}tus"]}),
        ("/v1/classify", asked | {"template": f"a {sign} {{}}"}),
        ("/v1/classify", asked | {"images": [picture | {"file": f"a{sign}.jpg"}]}),
        ("/v1/datasets", {"name": f"a{sign}"}),
    ]
    for path, body in wrong:
        assert tenant.http.post(path, json=body).status_code == 422, (path, body.keys())


def test_an_offer_of_http_2_keeps_its_body(tenant: Client, samples: list[Sample]) -> None:
    """As Java's HttpClient makes it with every first request."""
    body = {
        "images": [{"b64": base64.b64encode(samples[0].data).decode()}],
        "classes": ["crab", "lotus"],
    }
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"}
    response = tenant.http.post("/classify", json=body, headers=offer)
    assert response.status_code == 200, response.text


def test_too_many_files_are_counted_as_they_are(tenant: Client) -> None:
    files = [("files", (f"{i}.jpg", b"x")) for i in range(300)]
    answer = tenant.http.post("/classify", files=files, data={"classes": "a,b"})
    assert answer.status_code == 413
    assert "300 pictures, more than the 256" in answer.text
