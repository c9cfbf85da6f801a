"""The HTTP contract, over real HTTP: what each call answers, and what bad input is told."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import zipfile

import httpx
import numpy as np
import pytest
import torch
from torch.nn import functional

from adapters.clip import FrozenCLIP
from service.client import Client, ClientError
from service.http.server import listen
from service.settings import Settings
from tests.support.api import Api, problem, run_job, upload
from tests.support.waiting import wait_for
from training.data import Sample, image_set
from training.fit import class_features, image_features

NAMES = ["crab", "cup", "lotus"]


@pytest.fixture(scope="module")
def three(samples: list[Sample]) -> list[Sample]:
    """Six photos of each of three classes."""
    return [s for name in NAMES for s in [s for s in samples if s.label == name][:6]]


@pytest.fixture(scope="module")
def dataset(tenant: Client, three: list[Sample]) -> str:
    return upload(tenant, three)


@pytest.fixture(scope="module")
def fitted(tenant: Client, dataset: str, worker: None) -> str:
    """An adapter with two versions, an instant one and the full one, which is live."""
    job = run_job(tenant, dataset, "things", params={"epochs": 2})
    assert job["state"] == "succeeded", job
    tenant.publish("things", 2)
    return "things"


def raw(client: Client, method: str, path: str, **options) -> httpx.Response:
    return client.http.request(method, path, **options)


# --- tenants ---


def test_an_erased_tenant_is_gone(api: Api, three: list[Sample]) -> None:
    client = api.new_tenant()
    upload(client, three[:2])
    with api.admin() as admin:
        assert raw(admin, "DELETE", f"/v1/tenants/{client.tenant}").status_code == 204
        assert raw(admin, "DELETE", f"/v1/tenants/{client.tenant}").status_code == 204  # again
        problem(raw(admin, "DELETE", "/v1/tenants/tenant_nobody"), 404)
    problem(raw(client, "GET", "/v1/datasets"), 401)


# --- data sets ---


def test_a_data_set_counts_its_labels(tenant: Client, dataset: str) -> None:
    found = tenant.call("GET", f"/v1/datasets/{dataset}")
    assert found["labels"] == {"crab": 6, "cup": 6, "lotus": 6}
    assert found["images"] == 18
    assert dataset in [item["dataset"] for item in tenant.pages("/v1/datasets")]


def test_a_deleted_data_set_is_404(tenant: Client) -> None:
    dataset = tenant.create_dataset("short")
    assert raw(tenant, "DELETE", f"/v1/datasets/{dataset}").status_code == 204
    problem(raw(tenant, "GET", f"/v1/datasets/{dataset}"), 404)


def test_what_is_good_is_stored_and_what_is_not_is_listed(
    tenant: Client, three: list[Sample]
) -> None:
    dataset = tenant.create_dataset("mixed")
    good = three[0].data
    files = [
        ("files", ("good.jpg", good)),
        ("files", ("empty.jpg", b"")),
        ("files", ("text.jpg", b"no picture")),
        ("files", ("cut.jpg", good[: len(good) // 2])),
    ]
    answer = tenant.call(
        "POST", f"/v1/datasets/{dataset}/images", data={"label": "crab"}, files=files
    )
    assert answer["accepted"] == 1
    assert answer["labels"] == {"crab": 1}
    reasons = {item["file"]: item["reason"] for item in answer["rejected"]}
    assert "empty" in reasons["crab/empty.jpg"]
    assert "known format" in reasons["crab/text.jpg"]
    assert "cut short" in reasons["crab/cut.jpg"]


def test_an_upload_with_nothing_good_is_422_naming_each_file(tenant: Client) -> None:
    dataset = tenant.create_dataset("bad")
    response = raw(
        tenant,
        "POST",
        f"/v1/datasets/{dataset}/images",
        data={"label": "x"},
        files=[("files", ("a.jpg", b"a")), ("files", ("b.jpg", b""))],
    )
    assert [e["field"] for e in problem(response, 422)["errors"]] == ["x/a.jpg", "x/b.jpg"]


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"label": "x"}},
        {"files": [("files", ("a.jpg", b"a"))]},
        {"data": {"label": "  "}, "files": [("files", ("a.jpg", b"a"))]},
        {"data": {"label": "x" * 101}, "files": [("files", ("a.jpg", b"a"))]},
        {"files": [("archive", ("a.zip", b"no archive"))]},
        {"files": [("archive", ("a.zip", b"")), ("files", ("a.jpg", b"a"))]},
    ],
    ids=["no files", "no label", "blank label", "long label", "no archive", "both"],
)
def test_uploads_that_cannot_be_used_are_422(tenant: Client, dataset: str, form: dict) -> None:
    assert problem(raw(tenant, "POST", f"/v1/datasets/{dataset}/images", **form), 422)["errors"]


def test_an_archive_is_a_folder_a_class(tenant: Client, three: list[Sample]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for sample in three[:8]:
            archive.writestr(f"set/{sample.label}/{sample.name}", sample.data)
        archive.writestr("../evil.jpg", three[0].data)
    dataset = tenant.create_dataset("archive")
    answer = tenant.call(
        "POST",
        f"/v1/datasets/{dataset}/images",
        files={"archive": ("photos.zip", stream.getvalue())},
    )
    assert answer["labels"] == {"crab": 6, "cup": 2}
    assert [item["file"] for item in answer["rejected"]] == ["../evil.jpg"]


# --- jobs ---


def test_a_fit_goes_from_queued_to_a_live_version(tenant: Client, fitted: str) -> None:
    adapter = tenant.call("GET", f"/v1/adapters/{fitted}")
    assert adapter["live"] == 2
    assert [(v["version"], v["kind"]) for v in adapter["versions"]] == [(2, "full"), (1, "instant")]
    assert adapter["versions"][0]["metrics"]["adapted"]["images"] == 18
    assert adapter["versions"][0]["classes"] == NAMES
    jobs = [job for job in tenant.pages("/v1/jobs") if job["adapter"] == fitted]
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert all(job["progress"]["step"] == job["progress"]["steps"] for job in jobs)


def test_a_job_answers_202_with_its_place_and_can_be_cancelled(
    tenant: Client, dataset: str, worker: None
) -> None:
    body = {"dataset": dataset, "adapter": "slow", "params": {"epochs": 200}, "publish": False}
    response = raw(tenant, "POST", "/v1/jobs", json=body)
    assert response.status_code == 202
    job = response.json()["job"]
    assert response.headers["location"] == f"/v1/jobs/{job}"
    for event in tenant.job_events(job):
        if event["progress"] and event["state"] == "running":
            assert raw(tenant, "DELETE", f"/v1/jobs/{job}").status_code == 202
            break
    states = [event["state"] for event in tenant.job_events(job)]
    assert states[-1] == "cancelled"
    problem(raw(tenant, "DELETE", f"/v1/jobs/{job}"), 409)
    problem(raw(tenant, "GET", "/v1/adapters/slow"), 404)


def test_events_end_with_the_ended_job(tenant: Client, fitted: str) -> None:
    job = next(job for job in tenant.pages("/v1/jobs") if job["adapter"] == fitted)["job"]
    with tenant.http.stream("GET", f"/v1/jobs/{job}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    assert "event: end" in text
    assert json.loads(text.split("data:")[1].split("\n")[0])["state"] == "succeeded"


def test_the_same_idempotency_key_answers_the_same_job(
    tenant: Client, dataset: str, worker: None
) -> None:
    body = {"dataset": dataset, "adapter": "once", "params": {"epochs": 1}, "publish": False}
    headers = {"Idempotency-Key": "k1"}
    first, again = (
        raw(tenant, "POST", "/v1/jobs", json=body, headers=headers).json() for _ in range(2)
    )
    assert first["job"] == again["job"]
    *_, job = tenant.job_events(first["job"])
    assert (job["state"], job["published"], job["version"]) == ("succeeded", False, 1)
    problem(raw(tenant, "POST", "/classify", data={"adapter": "once"}, files=_photo(b"x")), 409)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"dataset": "dataset_unknown"}, 404, None),
        ({"adapter": "no spaces"}, 422, "adapter"),
        ({"params": {"epochs": 0}}, 422, "params.epochs"),
        ({"params": {"unknown": 1}}, 422, "params.unknown"),
        ({"params": {"rank": 64}}, 422, "params.rank"),
        ({"params": {"template": "no place"}}, 422, "classes"),
        ({"publish": "perhaps"}, 422, "publish"),
        ({"extra": 1}, 422, "extra"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_naming_the_field(
    tenant: Client, dataset: str, change: dict, status: int, field: str | None
) -> None:
    body = {"dataset": dataset, "adapter": "x"} | change
    errors = problem(raw(tenant, "POST", "/v1/jobs", json=body), status)["errors"]
    assert field is None or any(e["field"].startswith(field) for e in errors)


def test_one_class_is_422_saying_so(tenant: Client, three: list[Sample]) -> None:
    dataset = upload(tenant, three[:3])
    response = raw(tenant, "POST", "/v1/jobs", json={"dataset": dataset, "adapter": "x"})
    assert "at least 2 classes, the data set has 1" in problem(response, 422)["detail"]


# --- adapters ---


def test_roll_back_and_forth_is_seen_by_the_next_answer(tenant: Client, fitted: str) -> None:
    for version in (1, 2, 1, 2):
        raw(tenant, "PUT", f"/v1/adapters/{fitted}/live", json={"version": version})
        assert tenant.classify([("a", _noise())], adapter=fitted)["version"] == version


def test_the_live_version_cannot_be_deleted_others_can(
    tenant: Client, dataset: str, worker: None
) -> None:
    for _ in range(2):
        run_job(tenant, dataset, "gone", fit="instant")
    problem(raw(tenant, "DELETE", "/v1/adapters/gone/versions/2"), 409)
    assert raw(tenant, "DELETE", "/v1/adapters/gone/versions/1").status_code == 204
    problem(raw(tenant, "PUT", "/v1/adapters/gone/live", json={"version": 1}), 404)
    problem(raw(tenant, "GET", "/v1/adapters/gone/versions/1/artifact"), 404)
    assert raw(tenant, "DELETE", "/v1/adapters/gone").status_code == 204
    problem(raw(tenant, "POST", "/classify", data={"adapter": "gone"}, files=_photo(b"x")), 404)


def test_the_artifact_is_the_file_that_answers_name(tenant: Client, fitted: str) -> None:
    from adapters.artifact import decode_artifact, sha256

    data = raw(tenant, "GET", f"/v1/adapters/{fitted}/versions/2/artifact").content
    answer = tenant.classify([("a", _noise())], adapter=fitted, version=2)
    assert answer["artifact_sha256"] == sha256(data)
    manifest = decode_artifact(data).manifest
    assert (manifest.tenant, manifest.adapter, manifest.version) == (tenant.tenant, fitted, 2)
    assert len(manifest.info["data_digest"]) == 64


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/datasets/{dataset}"),
        ("DELETE", "/v1/datasets/{dataset}"),
        ("GET", "/v1/jobs/{job}"),
        ("GET", "/v1/jobs/{job}/events"),
        ("DELETE", "/v1/jobs/{job}"),
        ("GET", "/v1/adapters/{adapter}"),
        ("DELETE", "/v1/adapters/{adapter}"),
        ("DELETE", "/v1/adapters/{adapter}/versions/1"),
        ("GET", "/v1/adapters/{adapter}/versions/1/artifact"),
    ],
)
def test_anothers_things_are_404_as_if_they_did_not_exist(
    api: Api, tenant: Client, dataset: str, fitted: str, method: str, path: str
) -> None:
    job = next(iter(tenant.pages("/v1/jobs")))["job"]
    names = {"dataset": dataset, "job": job, "adapter": fitted}
    unknown = {"dataset": "dataset_x", "job": "job_x", "adapter": "nothing"}
    other = api.new_tenant()
    theirs = problem(raw(other, method, path.format(**names)), 404)
    nobodys = problem(raw(other, method, path.format(**unknown)), 404)
    for key, name in names.items():
        theirs["detail"] = theirs["detail"].replace(name, unknown[key])
    assert theirs == nobodys


def test_anothers_adapter_classifies_nothing(api: Api, fitted: str) -> None:
    other = api.new_tenant()
    problem(raw(other, "POST", "/classify", data={"adapter": fitted}, files=_photo(_noise())), 404)


# --- classify ---


def _noise(seed: int = 0) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def _photo(data: bytes) -> list:
    return [("files", ("photo.jpg", data))]


def test_zero_shot_takes_any_names(tenant: Client, samples: list[Sample]) -> None:
    photos = [s for s in samples if s.label in ("starfish", "umbrella")][::8]
    answer = tenant.classify([(s.name, s.data) for s in photos], ["starfish", "umbrella"])
    assert (answer["adapter"], answer["version"], answer["artifact_sha256"]) == (None, None, None)
    assert answer["model"] == "bundled"
    assert [r["label"] for r in answer["results"]] == [s.label for s in photos]
    for result in answer["results"]:
        assert sum(p["score"] for p in result["predictions"]) == pytest.approx(1, abs=1e-5)


def test_an_adapter_answers_with_its_own_classes_or_any_others(tenant: Client, fitted: str) -> None:
    own = tenant.classify([("a", _noise())], adapter=fitted)["results"][0]
    assert {p["label"] for p in own["predictions"]} == set(NAMES)
    other = tenant.classify([("a", _noise())], ["ship", "shoe"], fitted)["results"][0]
    assert {p["label"] for p in other["predictions"]} == {"ship", "shoe"}


def test_json_multipart_and_repeated_fields_give_the_same_answer(tenant: Client) -> None:
    photo, names = _noise(), ["ship", "shoe, red", "[odd"]
    as_json = {
        "images": [{"b64": base64.b64encode(photo).decode(), "file": "photo.jpg"}],
        "classes": names,
    }
    answers = [
        raw(tenant, "POST", "/classify", json=as_json),
        raw(
            tenant, "POST", "/v1/classify", data={"classes": json.dumps(names)}, files=_photo(photo)
        ),
        raw(tenant, "POST", "/classify", data={"classes": names}, files=_photo(photo)),
    ]
    assert [a.status_code for a in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()


def test_a_broken_picture_among_good_ones_is_an_entry_with_its_error(tenant: Client) -> None:
    files = [("a", _noise(1)), ("broken", b"x"), ("empty", b""), ("b", _noise(2))]
    results = tenant.classify(files, ["x", "y"])["results"]
    assert [r["file"] for r in results] == ["a", "broken", "empty", "b"]
    assert [bool(r["error"]) for r in results] == [False, True, True, False]
    alone = [tenant.classify([f], ["x", "y"])["results"][0] for f in (files[0], files[3])]
    for together, single in zip((results[0], results[3]), alone, strict=True):
        assert together["label"] == single["label"]


def test_top_k_and_min_score(tenant: Client) -> None:
    def ask(**options) -> dict:
        return tenant.classify([("a", _noise())], ["x", "y", "z"], **options)["results"][0]

    assert [len(ask(top_k=k)["predictions"]) for k in (1, 2, 9)] == [1, 2, 3]
    assert ask(min_score=0.0)["label"] is not None
    sure = ask(min_score=1.0)
    assert sure["label"] is None and len(sure["predictions"]) == 3


def test_the_template_matters_and_is_the_fits_own_by_default(tenant: Client, fitted: str) -> None:
    def scores(**options) -> list[float]:
        answer = tenant.classify([("a", _noise())], NAMES, fitted, **options)
        return [p["score"] for p in answer["results"][0]["predictions"]]

    assert scores() == scores(template="a photo of a {}.")
    assert scores() != scores(template="a drawing of a {}.")


def test_several_templates_are_averaged_in_feature_space(
    api: Api, tenant: Client, samples: list[Sample], clip: FrozenCLIP
) -> None:
    templates = ["a photo of a {}.", "a drawing of a {}.", "{}"]
    by_template = [class_features(clip, None, NAMES, template) for template in templates]
    classes = functional.normalize(torch.stack(by_template).mean(0), dim=-1)
    picture = image_features(clip, None, image_set(samples[:1], clip.spec).pixels)
    expected = functional.softmax(clip.logit_scale * picture @ classes.T, dim=-1)[0]
    answers = [
        tenant.call(
            "POST",
            "/classify",
            json={
                "images": [{"b64": base64.b64encode(samples[0].data).decode()}],
                "classes": NAMES,
                "template": given,
            },
        )
        for given in (templates, templates[0], templates[:1])
    ]
    answers.append(
        tenant.call(
            "POST",
            "/classify",
            data={"classes": NAMES, "template": templates},
            files=[("files", ("a", samples[0].data))],
        )
    )
    scores = [
        [{p["label"]: p["score"] for p in a["results"][0]["predictions"]}[n] for n in NAMES]
        for a in answers
    ]
    assert scores[0] == pytest.approx(expected.tolist(), abs=1e-5)
    assert scores[3] == scores[0]
    assert scores[1] == scores[2] != scores[0]


def test_a_client_that_goes_away_frees_its_places_in_the_queue(
    api: Api, tenant: Client, samples: list[Sample]
) -> None:
    release = threading.Event()
    api.components.engine.call(lambda: release.wait(60))  # the device is busy
    queue = api.components.engine.queue
    try:
        with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=2) as impatient:
            impatient.post(
                f"{api.url}/classify",
                headers=tenant.http.headers,
                data={"classes": NAMES},
                files=[("files", (f"{i}", samples[i].data)) for i in range(5)],
            )
        wait_for(lambda: len(queue) == 0, 10)
    finally:
        release.set()
    assert len(tenant.classify([("a", samples[0].data)], NAMES)["results"]) == 1


def test_headers_say_version_cache_and_request(tenant: Client, fitted: str) -> None:
    data = {"adapter": fitted}
    response = raw(tenant, "POST", "/classify", data=data, files=_photo(_noise()))
    assert response.headers["x-adapter-version"] == "2"
    assert response.headers["x-adapter-cache"] in ("device", "host", "blob")
    assert len(response.headers["x-request-id"]) == 32
    given = raw(tenant, "GET", "/v1/adapters", headers={"x-request-id": "mine"})
    assert given.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        ({}, 422, "classes"),
        ({"classes": "[]"}, 422, "no class names"),
        ({"classes": '["a", "a"]'}, 422, "'a'"),
        ({"classes": '["a", " "]'}, 422, "[1]"),
        ({"classes": '["a", 3]'}, 422, "classes[1]"),
        ({"classes": '["a", '}, 422, "broken JSON"),
        ({"classes": json.dumps([str(i) for i in range(1001)])}, 422, "1,001 class names"),
        ({"classes": json.dumps(["a", "word " * 40])}, 422, "word word"),
        ({"classes": '["a", "b"]', "template": "none"}, 422, "exactly one"),
        ({"classes": '["a", "b"]', "top_k": "0"}, 422, "top_k"),
        ({"classes": '["a", "b"]', "min_score": "2"}, 422, "min_score"),
        ({"classes": '["a", "b"]', "version": "1"}, 422, "adapter"),
        ({"classes": '["a", "b"]', "unknown": "1"}, 422, "unknown"),
        ({"classes": '["a", "b"]', "adapter": "nothing"}, 404, "nothing"),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_why(
    tenant: Client, data: dict, status: int, says: str
) -> None:
    response = raw(tenant, "POST", "/classify", data=data, files=_photo(_noise()))
    assert says in json.dumps(problem(response, status))


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": {"classes": '["a", "b"]'}, "files": [("other", ("a", b"a"))]}, 422),
        ({"json": {"classes": ["a"]}}, 422),
        ({"json": {"classes": ["a"], "images": [{"b64": "!"}]}}, 422),
        ({"json": {"classes": ["a"], "images": "x"}}, 422),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 422),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b""}, 422),
    ],
)
def test_bodies_that_cannot_be_read_are_refused(tenant: Client, options: dict, status: int) -> None:
    problem(raw(tenant, "POST", "/classify", **options), status)


def test_a_body_that_says_it_is_over_the_limit_is_413_before_any_of_it_is_sent(
    api: Api, tenant: Client
) -> None:
    connection = http.client.HTTPConnection(api.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/classify")
    connection.putheader("authorization", tenant.http.headers["authorization"])
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(31 * 2**20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "over 31,457,280 bytes" in json.loads(answer.read())["detail"]
    connection.close()


def test_a_body_that_grows_over_the_limit_is_413_before_it_is_all_read(tenant: Client) -> None:
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(2000):  # 2 GB, if it were read
            sent += 2**20
            yield b"\0" * 2**20

    headers = {"content-type": "application/json"}
    with contextlib.suppress(httpx.TransportError):  # it may hang up (RFC 9110, 15.5.14)
        problem(raw(tenant, "POST", "/classify", content=endless(), headers=headers), 413)
    assert sent < 200 * 2**20


def test_too_many_pictures_are_413(tenant: Client) -> None:
    files = [("files", (str(i), b"x")) for i in range(257)]
    problem(raw(tenant, "POST", "/classify", data={"classes": '["a", "b"]'}, files=files), 413)


# --- embeddings, health, metrics, documentation ---


def test_embeddings_have_openais_shape_and_one_space(
    tenant: Client, samples: list[Sample], fitted: str
) -> None:
    photo = next(s for s in samples if s.label == "umbrella")
    uri = "data:image/jpeg;base64," + base64.b64encode(photo.data).decode()
    body = {"input": ["a photo of a umbrella.", "a photo of a starfish.", uri]}
    answer = tenant.call("POST", "/v1/embeddings", json=body)
    assert answer["object"] == "list" and answer["usage"]["prompt_tokens"] > 0
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    umbrella, starfish, picture = (np.array(item["embedding"]) for item in answer["data"])
    assert np.linalg.norm(picture) == pytest.approx(1, abs=1e-5)
    assert picture @ umbrella > picture @ starfish
    adapted = tenant.call("POST", "/v1/embeddings", json=body | {"adapter": fitted})
    assert adapted["version"] == 2
    assert adapted["data"][2]["embedding"] != answer["data"][2]["embedding"]


@pytest.mark.parametrize(
    "given", [[], [""], "data:image/png;base64,!", "data:image/png,x", "data:image/png;base64,eA=="]
)
def test_inputs_that_are_none_are_422(tenant: Client, given: object) -> None:
    problem(raw(tenant, "POST", "/v1/embeddings", json={"input": given}), 422)


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(
    settings: Settings,
) -> None:
    """Each connection has TCP_NODELAY, which asyncio sets for sockets of this protocol alone."""

    async def serve() -> None:
        def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            nodelay.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(settings) as listener:
            async with await asyncio.start_server(look, sock=listener):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                await reader.read()
                writer.close()

    nodelay: list[int] = []
    asyncio.run(serve())
    assert nodelay == [1]


def test_cursors_and_limits_are_checked(tenant: Client) -> None:
    problem(raw(tenant, "GET", "/v1/datasets?limit=0"), 422)
    problem(raw(tenant, "GET", "/v1/datasets", params={"cursor": "x" * 300}), 422)


def test_a_client_that_reaches_nothing_says_what_to_do() -> None:
    with (
        Client("http://127.0.0.1:9", "key") as client,
        pytest.raises(ClientError, match="is `rmadapter up` running"),
    ):
        client.call("GET", "/v1/datasets")
