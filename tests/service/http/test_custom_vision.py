"""Azure Custom Vision's prediction API, asked by Microsoft's own client."""

import io
import uuid

import httpx
import numpy as np
import pytest
from azure.cognitiveservices.vision.customvision.prediction import CustomVisionPredictionClient
from azure.cognitiveservices.vision.customvision.prediction.models import (
    CustomVisionErrorException,
    ImagePrediction,
)
from msrest.authentication import ApiKeyCredentials
from PIL import Image

from adapters.clip import FrozenCLIP
from service.client import Client
from tests.support.api import Api
from tests.support.random_adapters import add_version
from training.data import Sample

PROJECT = "5b3c9e4c-6b1f-4a7e-9f0d-0a1b2c3d4e5f"
PATH = f"/customvision/v3.1/prediction/{PROJECT}/classify/iterations/flowers/image"


def key_of(client: Client) -> str:
    return str(client.http.headers["authorization"]).split()[1]


def microsofts(client: Client, key: str | None = None) -> CustomVisionPredictionClient:
    """Their client as their quickstart makes it, with our endpoint and key."""
    credentials = ApiKeyCredentials(in_headers={"Prediction-key": key or key_of(client)})
    theirs = CustomVisionPredictionClient(str(client.http.base_url).rstrip("/"), credentials)
    theirs.config.retry_policy.retries = 0
    return theirs


@pytest.fixture(scope="module")
def owner(api: Api, clip: FrozenCLIP) -> Client:
    """A tenant with two published adapters, and one that is not."""
    client = api.new_tenant()
    adapters = api.components.records.adapters
    for number, name in enumerate(("flowers", "my-flowers", "unpublished"), 1):
        classes = ("crab", "lotus", "Negative")
        add_version(api.components.records, clip, client.tenant, name, number, classes=classes)
        if name != "unpublished":
            adapters.publish(client.tenant, name, number)
    return client


@pytest.fixture(scope="module")
def theirs(owner: Client) -> CustomVisionPredictionClient:
    key = owner.call("POST", "/v1/keys", json={"scope": "classify"})["api_key"]
    return microsofts(owner, key)


def named(prediction: ImagePrediction) -> dict[str, float]:
    return {one.tag_name: one.probability for one in prediction.predictions}


def refused(call: object, *arguments: object) -> tuple[int, str]:
    """The status and the code that their client raises."""
    with pytest.raises(CustomVisionErrorException) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.error.message
    return caught.value.response.status_code, caught.value.error.code


def large_picture() -> bytes:
    """Over 4 MB, the limit of theirs."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    assert len(file.getvalue()) > 4_000_000
    return file.getvalue()


@pytest.mark.parametrize("nostore", [False, True])
@pytest.mark.parametrize("sent", ["bytes", "file"])
def test_microsofts_client_gets_what_classify_answers(
    owner: Client,
    theirs: CustomVisionPredictionClient,
    samples: list[Sample],
    sent: str,
    nostore: bool,
) -> None:
    call = theirs.classify_image_with_no_store if nostore else theirs.classify_image
    for sample in samples[::40]:
        data = io.BytesIO(sample.data) if sent == "file" else sample.data
        answer = call(PROJECT, "flowers", data)
        ours = owner.http.post(
            "/v1/classify", files={"files": ("a.jpg", sample.data)}, data={"adapter": "flowers"}
        ).json()["results"][0]["predictions"]
        assert named(answer) == pytest.approx({p["label"]: p["score"] for p in ours}, abs=1e-5)
        assert [p.tag_name for p in answer.predictions] == [p["label"] for p in ours]
        assert answer.project == PROJECT
        assert answer.created.tzinfo is not None


def test_a_picture_over_four_megabytes_comes_whole(
    owner: Client, theirs: CustomVisionPredictionClient
) -> None:
    data = large_picture()
    ours = owner.http.post(
        "/v1/classify", files={"files": ("a.png", data)}, data={"adapter": "flowers"}
    ).json()["results"][0]["predictions"]
    scores = {p["label"]: p["score"] for p in ours}
    for sent in (data, io.BytesIO(data)):
        assert named(theirs.classify_image(PROJECT, "flowers", sent)) == pytest.approx(
            scores, abs=1e-5
        )


@pytest.mark.parametrize(
    "path",
    [
        PATH,
        PATH.replace("customvision", "CustomVision").replace("/prediction/", "/Prediction/"),
        PATH.replace("v3.1", "V3.0").replace("iterations", "Iterations"),
        PATH.replace("classify", "CLASSIFY").replace("/image", "/Image/NoStore"),
        PATH.replace(PROJECT, "any id"),
        f"{PATH}?application=an-app",
    ],
)
@pytest.mark.parametrize("kind", ["application/octet-stream", "image/jpeg", None])
def test_the_body_may_be_the_picture_and_the_paths_case_does_not_matter(
    owner: Client, samples: list[Sample], path: str, kind: str | None
) -> None:
    headers = {"Prediction-Key": key_of(owner)} | ({"content-type": kind} if kind else {})
    url = str(owner.http.base_url).rstrip("/") + path
    answer = httpx.post(url, content=samples[0].data, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["id", "project", "iteration", "created", "predictions"]
    scores = [p["probability"] for p in body["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)


def test_the_names_case_matters_and_a_space_in_it_is_a_hyphen(
    theirs: CustomVisionPredictionClient, samples: list[Sample]
) -> None:
    assert refused(theirs.classify_image, PROJECT, "Flowers", samples[0].data)[0] == 404
    assert theirs.classify_image(PROJECT, "my flowers", samples[0].data).predictions


def test_ids_are_uuids_that_stay(
    theirs: CustomVisionPredictionClient, samples: list[Sample]
) -> None:
    first, second = (theirs.classify_image(PROJECT, "flowers", s.data) for s in samples[:2])
    other = theirs.classify_image(PROJECT, "my-flowers", samples[0].data)
    ids = [{p.tag_name: p.tag_id for p in answer.predictions} for answer in (first, second, other)]
    assert ids[0] == ids[1]
    assert len({*ids[0].values(), *ids[2].values()}) == 6
    assert (first.iteration, first.iteration) == (second.iteration, str(uuid.UUID(first.iteration)))
    assert other.iteration != first.iteration
    assert first.id != second.id
    assert all(uuid.UUID(tag).version == 5 for tag in ids[0].values())


def test_the_class_of_none_of_the_others_is_a_negative_tag(
    theirs: CustomVisionPredictionClient, samples: list[Sample]
) -> None:
    answer = theirs.classify_image(PROJECT, "flowers", samples[0].data)
    kinds = {p.tag_name: p.tag_type for p in answer.predictions}
    assert kinds == {"crab": "Regular", "lotus": "Regular", "Negative": "Negative"}


@pytest.mark.parametrize("name", ["never-there", "unpublished"])
def test_a_published_name_that_is_not_there_is_their_404(
    theirs: CustomVisionPredictionClient, samples: list[Sample], name: str
) -> None:
    where = (PROJECT, name, samples[0].data)
    assert refused(theirs.classify_image, *where) == (404, "NotFoundIteration")


def test_another_tenants_published_name_is_their_404(api: Api, samples: list[Sample]) -> None:
    stranger = microsofts(api.new_tenant())
    where = (PROJECT, "flowers", samples[0].data)
    assert refused(stranger.classify_image, *where) == (404, "NotFoundIteration")


def test_a_wrong_key_is_their_401(owner: Client, samples: list[Sample]) -> None:
    wrong = microsofts(owner, "rma_unknown")
    where = (PROJECT, "flowers", samples[0].data)
    assert refused(wrong.classify_image, *where) == (401, "Unauthorized")
    bare = httpx.post(str(owner.http.base_url).rstrip("/") + PATH, content=samples[0].data)
    assert (bare.status_code, bare.json()["code"]) == (401, "Unauthorized")


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff" + bytes(100)], ids=len)
def test_what_is_no_picture_is_their_400(theirs: CustomVisionPredictionClient, data: bytes) -> None:
    where = (PROJECT, "flowers", io.BytesIO(data))
    assert refused(theirs.classify_image, *where) == (400, "BadRequestImageFormat")


def test_a_form_without_a_picture_is_their_400(owner: Client) -> None:
    answer = owner.http.post(PATH, files={"other": (None, "x")})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadRequest")
    assert "imageData" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["application/octet-stream", "multipart/form-data"])
def test_too_large_a_picture_is_their_400(
    api: Api, owner: Client, theirs: CustomVisionPredictionClient, kind: str
) -> None:
    data = bytes(api.components.settings.max_image_bytes + 100_000)
    if kind == "multipart/form-data":
        status, code = refused(theirs.classify_image, PROJECT, "flowers", io.BytesIO(data))
        assert (status, code) == (400, "BadRequestImageSizeBytes")
    else:
        answer = owner.http.post(PATH, content=data, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (400, "BadRequestImageSizeBytes")


def test_an_unknown_path_of_theirs_is_refused_in_their_form(owner: Client) -> None:
    for path in ("/customvision/v3.1/Prediction/p/detect/iterations/a/image", "/customvision/v9/x"):
        answer = owner.http.post(path, content=b"x")
        assert answer.status_code == 404
        assert set(answer.json()) == {"code", "message"}


def test_a_rate_that_is_used_up_is_429_in_their_form(
    api: Api, owner: Client, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = api.components.engine
    monkeypatch.setattr(engine.gate, "picture_seconds", 1.0)
    with engine.admitted(owner.tenant) as admission:
        admission.hold(1000)
        answer = owner.http.post(PATH, content=samples[0].data)
    assert (answer.status_code, answer.json()["code"]) == (429, "TooManyRequests")
    assert int(answer.headers["retry-after"]) > 0


def test_urls_are_not_fetched_unless_a_setting_says_so(
    theirs: CustomVisionPredictionClient,
) -> None:
    where = (PROJECT, "flowers", "https://example.org/photo.jpg")
    for call in (theirs.classify_image_url, theirs.classify_image_url_with_no_store):
        assert refused(call, *where) == (400, "BadRequestImageUrl")


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"Url": 1}', b'"x"', b"\xff"], ids=ascii)
def test_a_body_without_a_url_is_their_400(owner: Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = owner.http.post(PATH.replace("/image", "/url"), content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("BadRequest", "BadRequestImageUrl")
