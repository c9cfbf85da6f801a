"""What a tenant may have is counted as it is stored, told when it is used up, and given back."""

import contextlib
import io
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from service.client import Client
from service.errors import NotFound, OverQuota, Unavailable
from service.records import Records, open_records
from service.records.datasets import Usage
from service.records.jobs import Jobs, JobSpec
from service.records.restore import restore
from service.settings import Settings
from tests.support.api import Api, away_from_workers, start_api, upload
from tests.support.random_adapters import manifest_of, random_weights
from tests.support.records import plant_dataset, tenant_step_keeping, usage_of
from training.data import Sample
from training.jobs import QUEUE

LIMITS = {
    "max_tenant_images": 3,
    "max_tenant_bytes": 1000,
    "max_tenant_datasets": 2,
    "max_tenant_adapters": 2,
    "max_open_jobs": 4,
    "max_versions": 4,
}


@pytest.fixture
def records(settings: Settings) -> Iterator[Records]:
    small = settings.model_copy(update=LIMITS)
    made = open_records(away_from_workers(settings), settings.blob_url, small)
    yield made
    made.jobs.broker.flush(QUEUE)


@pytest.fixture
def tenant(records: Records) -> str:
    made = records.tenants.create("small")[0].id
    plant_dataset(records, made)
    return made


@pytest.fixture
def dataset(records: Records, tenant: str) -> str:
    return records.datasets.create(tenant, "d").id


def picture(number: int, size: int = 100) -> Sample:
    return Sample("cat", f"{number}.jpg", bytes([number]) * size)


def blobs(records: Records, tenant: str) -> list[str]:
    paths = records.blobs.paths(f"tenants/{tenant}/datasets")
    return [path for path in paths if not path.endswith(".json")]


# --- pictures and their bytes ---


@pytest.mark.parametrize(
    ("stored", "more", "says"),
    [
        ([10, 10, 10], 1, "quota of images: 3 of 3 are used, 1 more were asked for"),
        ([600, 300], 101, "quota of bytes: 900 of 1,000 are used, 101 more were asked for"),
    ],
)
def test_what_goes_over_a_quota_is_refused_and_leaves_nothing(
    records: Records, tenant: str, dataset: str, stored: list[int], more: int, says: str
) -> None:
    for number, size in enumerate(stored):
        records.datasets.add(tenant, dataset, picture(number, size))
    before = (usage_of(records, tenant), blobs(records, tenant))
    with pytest.raises(OverQuota, match=says) as refused:
        records.datasets.add(tenant, dataset, picture(99, more))
    assert refused.value.retry_after > 0
    assert (usage_of(records, tenant), blobs(records, tenant)) == before
    assert before[0] == Usage(len(stored), sum(stored), 1)


def test_a_picture_that_just_fits_is_taken(records: Records, tenant: str, dataset: str) -> None:
    records.datasets.add(tenant, dataset, picture(1, 1000))


def test_the_same_picture_counts_once(records: Records, tenant: str, dataset: str) -> None:
    for _ in range(5):
        records.datasets.add(tenant, dataset, picture(1))
    assert usage_of(records, tenant) == Usage(1, 100, 1)


def test_the_same_picture_sent_at_once_counts_once(
    records: Records, tenant: str, dataset: str
) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: records.datasets.add(tenant, dataset, picture(1)), range(3)))
    assert usage_of(records, tenant) == Usage(1, 100, 1)
    assert records.datasets.get(tenant, dataset).labels == {"cat": 1}


def test_many_at_once_take_no_more_than_there_is(
    records: Records, tenant: str, dataset: str
) -> None:
    def add(number: int) -> bool:
        try:
            return records.datasets.add(tenant, dataset, picture(number)).new
        except OverQuota:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(40))) == 3
    assert usage_of(records, tenant).images == 3


def test_a_picture_that_could_not_be_stored_is_not_counted(
    records: Records, tenant: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(path: str, data: bytes) -> None:
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr(records.blobs, "put", away)
    with pytest.raises(Unavailable):
        records.datasets.add(tenant, dataset, picture(1))
    assert usage_of(records, tenant) == Usage(0, 0, 1)


def test_a_place_that_a_dead_server_took_is_free_again_after_a_while(
    records: Records, tenant: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.datasets.RESERVED_SECONDS", 1)
    for number in range(2):
        records.datasets.add(tenant, dataset, picture(number))
    records.datasets.take_place(tenant, dataset, 100)  # and then its server died
    with pytest.raises(OverQuota):
        records.datasets.add(tenant, dataset, picture(2))
    time.sleep(2.0)
    records.datasets.add(tenant, dataset, picture(2))
    assert usage_of(records, tenant) == Usage(3, 300, 1)


def test_a_picture_that_was_stored_for_longer_than_its_place_was_kept_is_counted(
    records: Records, tenant: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = records.blobs.put

    def slow(path: str, data: bytes) -> None:
        put(path, data)
        records.store.delete(f"rmadapter:tenant:{tenant}:places")
        for name, count in (("images", 1), ("bytes", 100)):  # as the next picture's place does
            records.store.set(f"rmadapter:tenant:{tenant}:{name}", count)

    records.datasets.add(tenant, dataset, picture(1))
    monkeypatch.setattr(records.blobs, "put", slow)
    records.datasets.add(tenant, dataset, picture(2))
    assert usage_of(records, tenant) == Usage(2, 200, 1)


def test_deleting_gives_back_once(records: Records, tenant: str, dataset: str) -> None:
    other = records.datasets.create(tenant, "other").id
    for number in range(2):
        records.datasets.add(tenant, dataset, picture(number))
    records.datasets.add(tenant, other, picture(2, 50))

    def delete(_: int) -> None:
        with contextlib.suppress(NotFound):
            records.datasets.delete(tenant, dataset)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(delete, range(4)))
    assert usage_of(records, tenant) == Usage(1, 50, 1)


def test_data_sets_are_a_quota(records: Records, tenant: str, dataset: str) -> None:
    records.datasets.create(tenant, "two")
    with pytest.raises(OverQuota, match="data sets: 2 of 2"):
        records.datasets.create(tenant, "three")
    records.datasets.delete(tenant, dataset)
    records.datasets.create(tenant, "three")


@pytest.mark.parametrize("emptied", [True, False])
def test_a_restore_counts_right_also_into_a_redis_that_was_not_empty(
    records: Records, tenant: str, dataset: str, emptied: bool
) -> None:
    for number in range(2):
        records.datasets.add(tenant, dataset, picture(number))
    if emptied:
        for name in list(records.store.scan_iter(match=f"*{tenant}*")):
            records.store.delete(name)
    restore(records)
    assert usage_of(records, tenant) == Usage(2, 200, 1)
    records.datasets.delete(tenant, dataset)
    assert usage_of(records, tenant) == Usage(0, 0, 0)


# --- jobs and adapters ---


def spec(adapter: str) -> JobSpec:
    return JobSpec("dataset_1", adapter, {}, True)


def make(records: Records, clip: FrozenCLIP, tenant: str, adapter: str) -> None:
    number = records.adapters.next_number(tenant, adapter)
    manifest = manifest_of(clip, tenant=tenant, adapter=adapter, version=number, classes=("a", "b"))
    records.adapters.add(manifest, encode_artifact(Artifact(manifest, random_weights(clip, 1))))


def test_a_job_for_an_adapter_too_many_is_refused_before_it_is_fitted(
    records: Records, clip: FrozenCLIP, tenant: str
) -> None:
    make(records, clip, tenant, "one")
    job = records.jobs.create(tenant, spec("two"))
    records.jobs.create(tenant, spec("two"))  # makes no other adapter
    records.jobs.create(tenant, spec("one"))
    with pytest.raises(OverQuota, match="adapters: 2 of 2 are used"):
        records.jobs.create(tenant, spec("three"))
    assert len(records.jobs.page(tenant, 10, None).items) == 3
    records.jobs.cancel(tenant, job.id)
    with pytest.raises(OverQuota):
        records.jobs.create(tenant, spec("three"))  # the other job makes "two"
    records.adapters.delete(tenant, "one")
    with pytest.raises(OverQuota):
        records.jobs.create(tenant, spec("three"))  # a job makes "one" again
    for open_job in records.jobs.page(tenant, 10, None).items:
        if not open_job.ended:
            records.jobs.cancel(tenant, open_job.id)
    records.jobs.create(tenant, spec("three"))


def test_versions_of_an_adapter_are_a_quota_and_open_jobs_count(
    records: Records, clip: FrozenCLIP, tenant: str
) -> None:
    for _ in range(3):
        make(records, clip, tenant, "one")
    records.jobs.create(tenant, spec("one"))
    with pytest.raises(OverQuota, match="versions: 4 of 4 are used"):
        records.jobs.create(tenant, spec("one"))
    records.adapters.delete_version(tenant, "one", 1)
    records.jobs.create(tenant, spec("one"))


@pytest.fixture
def tight(settings: Settings, records: Records, tenant: str, dataset: str) -> Records:
    """The same records, and a quota of their bytes that one picture with a long name uses up."""
    small = settings.model_copy(update=LIMITS | {"max_tenant_record_bytes": 200})
    records.datasets.add(tenant, dataset, Sample("cat", "n" * 200 + ".jpg", b"a picture"))
    return open_records(away_from_workers(settings), settings.blob_url, small)


def test_bytes_of_records_are_a_quota_of_pictures_and_of_jobs(
    tight: Records, tenant: str, dataset: str
) -> None:
    with pytest.raises(OverQuota, match=r"record bytes: 2\d\d of 200 are used"):
        tight.datasets.add(tenant, dataset, picture(1))
    with pytest.raises(OverQuota, match=r"record bytes: 2\d\d of 200 are used"):
        tight.jobs.create(tenant, spec("one"))
    tight.datasets.delete(tenant, dataset)
    other = tight.datasets.create(tenant, "other").id
    tight.datasets.add(tenant, other, picture(1))


def test_records_of_an_earlier_release_are_counted_with_the_next_change(
    tight: Records, clip: FrozenCLIP, tenant: str, dataset: str
) -> None:
    make(tight, clip, tenant, "one")
    name = f"rmadapter:tenant:{tenant}:record-bytes"
    counted = tight.store.hgetall(name)
    assert len(counted) == 3  # one data set, one adapter, the total
    tight.store.delete(name)
    with pytest.raises(OverQuota, match="record bytes"):
        tight.datasets.add(tenant, dataset, picture(1))
    assert tight.store.hgetall(name) == counted


def test_a_deleted_adapters_numbers_are_not_given_out_again_though_few_names_are_kept(
    records: Records, clip: FrozenCLIP, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.store.TENANT_STEP", tenant_step_keeping(2))
    for _ in range(3):
        make(records, clip, tenant, "one")
    records.adapters.delete(tenant, "one")
    for name in ("two", "three", "four"):
        make(records, clip, tenant, name)
        records.adapters.delete(tenant, name)
    kept = list(records.store.scan_iter(match=f"*{tenant}:adapter:*"))
    assert len(kept) <= 2
    assert records.adapters.next_number(tenant, "one") > 3


def test_jobs_that_ended_long_ago_are_forgotten_and_open_ones_never(
    records: Records, tenant: str
) -> None:
    bounds = replace(records.jobs.bounds, kept_seconds=2)
    jobs = Jobs(records.store, records.jobs.broker, bounds)
    waits = jobs.create(tenant, spec("one"))
    old = jobs.create(tenant, spec("one"))
    jobs.cancel(tenant, old.id)
    time.sleep(3.0)
    latest = jobs.create(tenant, spec("one"))
    jobs.cancel(tenant, latest.id)
    assert [job.id for job in jobs.page(tenant, 10, None).items] == [waits.id, latest.id]
    with pytest.raises(NotFound):
        jobs.get(tenant, old.id)


def test_a_refused_job_may_be_sent_again_under_its_idempotency_key(
    records: Records, tenant: str
) -> None:
    jobs = [records.jobs.create(tenant, spec("one")) for _ in range(4)]
    with pytest.raises(OverQuota):
        records.jobs.create(tenant, spec("one"), "again")
    records.jobs.cancel(tenant, jobs[0].id)
    made = records.jobs.create(tenant, spec("one"), "again")
    assert records.jobs.create(tenant, spec("one"), "again").id == made.id


def test_jobs_created_at_once_take_no_more_places_than_there_are(
    records: Records, tenant: str
) -> None:
    def create(_: int) -> bool:
        try:
            return bool(records.jobs.create(tenant, spec("one")))
        except OverQuota:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(20))) == 4


# --- over HTTP ---


@pytest.fixture(scope="module")
def api(
    settings: Settings, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    own = LIMITS | {
        "redis_url": away_from_workers(settings),
        "max_tenant_images": 4,
        "max_tenant_bytes": 10**6,
        "max_archive_entries": 6,
        "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
    }
    yield from start_api(settings.model_copy(update=own), clip)


def refused(response: httpx.Response, quota: str, use: str) -> None:
    assert response.status_code == 429, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    (error,) = response.json()["errors"]
    assert error["field"] == quota
    assert error["reason"].startswith(use)
    assert quota in response.json()["detail"]


def send(client: Client, dataset: str, pictures: list[Sample], how: str) -> httpx.Response:
    path = f"/v1/datasets/{dataset}/images"
    if how == "files":
        files = [("files", (s.name, s.data)) for s in pictures]
        return client.http.post(path, data={"label": "crab"}, files=files)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for sample in pictures:
            archive.writestr(f"crab/{sample.name}", sample.data)
    return client.http.post(path, files={"archive": ("a.zip", stream.getvalue())})


@pytest.mark.parametrize("how", ["files", "archive"])
def test_an_upload_over_the_quota_is_429_and_none_of_it_is_stored(
    api: Api, samples: list[Sample], how: str
) -> None:
    client = api.new_tenant()
    crabs = [s for s in samples if s.label == "crab"]
    dataset = upload(client, crabs[:2])
    over = send(client, dataset, crabs[:5], how)
    refused(over, "images", "4 of 4 are used, 1 more")
    assert client.call("GET", f"/v1/datasets/{dataset}")["labels"] == {"crab": 2}
    assert len(blobs(api.components.records, client.tenant)) == 2
    assert usage_of(api.components.records, client.tenant).images == 2
    assert send(client, dataset, crabs[2:4], how).json()["accepted"] == 2
    client.http.delete(f"/v1/datasets/{dataset}")
    assert usage_of(api.components.records, client.tenant) == Usage(0, 0, 0)


def test_jobs_adapters_and_data_sets_over_their_quota_are_429(
    api: Api, samples: list[Sample]
) -> None:
    client = api.new_tenant()
    dataset = upload(client, [samples[0], samples[-1]])
    client.create_dataset("two")
    refused(client.http.post("/v1/datasets", json={"name": "3"}), "data sets", "2 of 2 are used")
    for adapter in ("one", "two"):
        client.create_job(dataset, adapter)
    body = {"dataset": dataset, "adapter": "three"}
    refused(client.http.post("/v1/jobs", json=body), "adapters", "2 of 2 are used")
    for _ in range(2):
        client.create_job(dataset, "two")
    refused(client.http.post("/v1/jobs", json=body), "open jobs", "4 of 4 are used")
    api.components.records.jobs.broker.flush(QUEUE)
