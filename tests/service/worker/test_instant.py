"""Instant versions over a real server and worker: there at once, replaced by what is better."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.artifact import decode_artifact
from adapters.clip import FrozenCLIP
from adapters.evidence import NO_PHOTOS, probabilities
from service.client import Client
from service.records.features import features_folder
from service.settings import Settings
from service.worker.promotion import may_begin, not_worse_than_instant
from tests.support.api import Api, problem, run_job, start_api, start_worker, upload
from tests.support.waiting import wait_for
from training.data import Sample, image_set
from training.fit import class_features, image_features

LONG = {"epochs": 60}


@pytest.fixture
def own_redis(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a queue of its own, so that the session's worker takes nothing of it."""
    url = settings.redis_url.replace("db=0", "db=1")
    return settings.model_copy(update={"redis_url": url, "blob_url": tmp_path.as_uri()})


@pytest.fixture
def two_classes(samples: list[Sample]) -> list[Sample]:
    return samples[:6] + samples[24:30]


def versions(client: Client, adapter: str) -> list[tuple[int, str, bool]]:
    """Number, kind and whether it is live, the newest first."""
    found = client.call("GET", f"/v1/adapters/{adapter}")["versions"]
    return [(v["version"], v["kind"], v["live"]) for v in found]


def test_a_job_answers_before_its_fit_and_then_with_it(
    api: Api, worker: None, two_classes: list[Sample]
) -> None:
    client, photo = api.new_tenant(), two_classes[0]
    job = client.create_job(upload(client, two_classes), "things", params=LONG)
    stages, early = [], None
    for event in client.job_events(job["job"]):
        if event["stage"] not in stages[-1:]:
            stages.append(event["stage"])
        if event["instant_version"] and early is None:
            early = client.classify([(photo.name, photo.data)], adapter="things")
            assert event["finished_at"] is None
            assert versions(client, "things") == [(1, "instant", True)]
    assert early is not None and early["version"] == 1
    assert early["results"][0]["label"] == photo.label
    assert [stage for stage in stages if stage] in (
        ["reading", "estimating", "final"],
        ["reading", "instant", "estimating", "final"],
    )
    assert (event["instant_version"], event["version"], event["published"]) == (1, 2, True)
    assert versions(client, "things") == [(2, "full", True), (1, "instant", False)]
    late = client.classify([(photo.name, photo.data)], adapter="things")
    assert late["version"] == 2 and late["artifact_sha256"] != early["artifact_sha256"]


def test_an_instant_version_answers_by_the_frozen_clip_and_its_photos(
    api: Api, worker: None, clip: FrozenCLIP, two_classes: list[Sample], samples: list[Sample]
) -> None:
    client = api.new_tenant()
    job = run_job(client, upload(client, two_classes), "things", fit="instant")
    assert (job["state"], job["version"], job["published"]) == ("succeeded", 1, True)
    assert job["metrics"]["kind"] == "instant"
    assert job["metrics"]["photos"] == {"head": 12, "adapter": 0}
    assert job["progress"] is None and job["instant_version"] is None
    data = client.http.get("/v1/adapters/things/versions/1/artifact").content
    artifact = decode_artifact(data)
    assert artifact.manifest.info["kind"] == "instant" and artifact.head is not None
    names = (*artifact.manifest.classes, "umbrella")
    others = [samples[10], samples[30], samples[-1]]
    answer = client.classify([(s.name, s.data) for s in others], names, "things")
    images = image_features(clip, None, image_set(others, clip.spec).pixels)
    text = class_features(clip, None, names, artifact.manifest.template)
    head, columns = artifact.head.float(), torch.tensor([0, 1, NO_PHOTOS])
    expected = probabilities(head, images, text, columns, artifact.manifest.logit_scale)
    for result, row in zip(answer["results"], expected, strict=True):
        scores = {p["label"]: p["score"] for p in result["predictions"]}
        assert [scores[name] for name in names] == pytest.approx(row.tolist(), abs=1e-3)


def test_no_instant_version_is_stored_where_nothing_is_to_be_published(
    api: Api, worker: None, two_classes: list[Sample]
) -> None:
    client = api.new_tenant()
    job = run_job(client, upload(client, two_classes), "quiet", publish=False, params={"epochs": 1})
    assert (job["version"], job["instant_version"]) == (1, None)
    assert versions(client, "quiet") == [(1, "full", False)]


def test_a_worse_instant_version_does_not_replace_a_live_one(
    api: Api, worker: None, two_classes: list[Sample]
) -> None:
    """The second data set has half of its labels wrong."""
    client, names = api.new_tenant(), sorted({s.label for s in two_classes})
    run_job(client, upload(client, two_classes), "things", fit="instant")
    wrong = [Sample(names[i % 2], s.name, s.data) for i, s in enumerate(two_classes)]
    job = run_job(client, upload(client, wrong), "things", params={"epochs": 1})
    assert job["instant_version"] is None
    assert [kind for _, kind, _ in versions(client, "things")] == ["full", "instant"]


def test_a_cancelled_job_leaves_its_instant_version(
    api: Api, worker: None, two_classes: list[Sample]
) -> None:
    client = api.new_tenant()
    dataset = upload(client, two_classes)
    job = client.create_job(dataset, "things", params={"epochs": 200})["job"]
    wait_for(lambda: client.call("GET", f"/v1/jobs/{job}")["progress"])
    client.call("DELETE", f"/v1/jobs/{job}")
    *_, ended = client.job_events(job)
    assert (ended["state"], ended["instant_version"]) == ("cancelled", 1)
    assert versions(client, "things") == [(1, "instant", True)]


def test_a_fit_is_instant_or_full(api: Api, two_classes: list[Sample]) -> None:
    client = api.new_tenant()
    body = {"dataset": upload(client, two_classes), "adapter": "things", "fit": "slow"}
    problem(client.http.post("/v1/jobs", json=body), 422)


def test_a_killed_workers_instant_version_is_published_once(
    own_redis: Settings, clip: FrozenCLIP, two_classes: list[Sample], tmp_path: Path
) -> None:
    server = start_api(own_redis, clip)
    api = next(server)
    first = start_worker(own_redis, tmp_path / "first")
    client = api.new_tenant()
    dataset = upload(client, two_classes)
    job = client.create_job(dataset, "things", params=LONG)["job"]
    wait_for(lambda: client.call("GET", f"/v1/jobs/{job}")["progress"])
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert versions(client, "things") == [(1, "instant", True)]
    second = start_worker(own_redis, tmp_path / "second")
    try:
        wait_for(lambda: client.call("GET", f"/v1/jobs/{job}")["finished_at"])
        assert "instant version" not in (tmp_path / "second").read_text()
        assert versions(client, "things") == [(2, "full", True), (1, "instant", False)]
    finally:
        second.terminate()
        second.wait(60)
        next(server, None)


def test_features_are_kept_with_the_photos_and_a_damaged_one_is_made_anew(
    api: Api, worker: None, two_classes: list[Sample]
) -> None:
    client, records = api.new_tenant(), api.components.records
    dataset = upload(client, two_classes)
    first = run_job(client, dataset, "things", fit="instant")
    folder = features_folder(client.tenant, dataset)
    paths = sorted(records.blobs.paths(folder))
    assert len(paths) == len(two_classes)
    whole = [records.blobs.get(path) for path in paths]
    records.blobs.put(paths[0], b"damaged")
    records.blobs.put(paths[1], whole[2])  # of another photo
    records.blobs.delete(paths[3])
    again = run_job(client, dataset, "things", fit="instant")
    assert again["metrics"]["adapted"] == first["metrics"]["adapted"]
    for path, data in zip(paths, whole, strict=True):
        found = records.blobs.get(path)
        numbers = (np.frombuffer(file[32:], "<f4") for file in (found, data))
        assert np.abs(next(numbers) - next(numbers)).max() < 1e-5
    client.call("DELETE", f"/v1/datasets/{dataset}/images/{first_photo(client, dataset)}")
    assert len(list(records.blobs.paths(folder))) == len(two_classes) - 1


def first_photo(client: Client, dataset: str) -> str:
    return str(next(iter(client.pages(f"/v1/datasets/{dataset}/images")))["image"])


def report(accuracy: float, **others: float) -> dict:
    return {"adapted": {"accuracy": accuracy}} | {k: {"accuracy": v} for k, v in others.items()}


@pytest.mark.parametrize(
    ("metrics", "full"),
    [
        (report(0.9, instant=0.9), True),
        (report(0.8, instant=0.9), False),
        ({"adapted": None, "instant": None}, True),  # one photo per class
    ],
)
def test_the_better_of_a_jobs_two_versions_answers(metrics: dict, full: bool) -> None:
    assert not_worse_than_instant(metrics) is full


@pytest.mark.parametrize(
    ("publish", "begins"), [(True, True), ("if_better", False), (False, False)]
)
def test_a_first_instant_version_worse_than_zero_shot_begins_only_where_any_is_wanted(
    publish: bool | str, begins: bool
) -> None:
    assert may_begin(report(0.4, zero_shot=0.5), publish, None) is begins
