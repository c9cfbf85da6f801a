"""Records on a real Redis: what is written is found, by its owner alone, and once."""

import time

import pytest

from adapters.artifact import Artifact, encode_artifact
from adapters.clip import FrozenCLIP
from service.errors import Conflict, NotFound, OverQuota, Unauthorized
from service.http.schemas import ProgressOut
from service.records import Records, open_records
from service.records.jobs import LEASE_SECONDS, JobSpec
from service.records.restore import restore
from service.records.tenants import Grant
from service.settings import Settings
from tests.support.api import away_from_workers
from tests.support.random_adapters import manifest_of, random_weights
from tests.support.records import plant_dataset
from training.data import Sample
from training.fit import Progress
from training.jobs import QUEUE, FitJob

SPEC = JobSpec("dataset_1", "flowers", {}, True)


@pytest.fixture
def records(settings: Settings) -> Records:
    limits = settings.model_copy(update={"max_open_jobs": 5, "tenant_parallel_jobs": 2})
    return open_records(away_from_workers(settings), settings.blob_url, limits)


@pytest.fixture
def tenant(records: Records) -> str:
    made = records.tenants.create("someone")[0].id
    plant_dataset(records, made)
    return made


@pytest.fixture(autouse=True)
def empty_queue(records: Records):
    yield
    records.jobs.broker.flush(QUEUE)


def sent(records: Records) -> list[str]:
    """The jobs in the queue, first to last."""
    store = records.store
    ids = store.lrange(f"dramatiq:{QUEUE}", 0, -1)
    import json

    return [json.loads(store.hget(f"dramatiq:{QUEUE}.msgs", i))["args"][1] for i in ids]


def test_no_key_is_stored(records: Records) -> None:
    _, key = records.tenants.create("Acme")
    for name in records.store.scan_iter():
        kind = records.store.type(name)
        assert key not in name
        if kind == "string":
            assert key not in records.store.get(name)
    for path in records.blobs.paths("tenants"):
        if path.endswith(".json"):
            assert key.encode() not in records.blobs.get(path)


def test_erasing_a_tenant_leaves_nothing(records: Records) -> None:
    tenant, key = records.tenants.create("gone")
    dataset = records.datasets.create(tenant.id, "d")
    records.datasets.add(tenant.id, dataset.id, Sample("cat", "1.jpg", b"1"))
    records.jobs.create(tenant.id, JobSpec(dataset.id, "flowers", {}, True))
    records.tenants.erase(tenant.id)
    assert not [name for name in records.store.scan_iter() if tenant.id in name]
    assert not list(records.blobs.paths(f"tenants/{tenant.id}"))
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(key)


def test_pages_hold_every_item_once_in_order(records: Records, tenant: str) -> None:
    made = [records.datasets.create(tenant, str(i)).id for i in range(7)]
    found, cursor = [], None
    while True:
        page = records.datasets.page(tenant, 3, cursor)
        found += [dataset.id for dataset in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(found) == sorted(made)
    assert len(found) == 7


def test_the_same_picture_is_stored_once(records: Records, tenant: str) -> None:
    dataset = records.datasets.create(tenant, "d").id
    for name in ("a.jpg", "again.jpg"):
        assert records.datasets.add(tenant, dataset, Sample("cat", name, b"x")).label == "cat"
    assert records.datasets.add(tenant, dataset, Sample("dog", "c.jpg", b"x")).label == "cat"
    assert records.datasets.get(tenant, dataset).labels == {"cat": 1}


def test_any_label_is_kept_as_it_was(records: Records, tenant: str) -> None:
    dataset = records.datasets.create(tenant, "d").id
    labels = ["Küchenschelle", "a/b", "..", "日本 " * 20, "%2e"]
    for i, label in enumerate(labels):
        records.datasets.add(tenant, dataset, Sample(label, "x.jpg", bytes([i])))
    assert {s.label for s in records.datasets.samples(tenant, dataset)} == set(labels)


def test_the_same_idempotency_key_is_the_same_job(records: Records, tenant: str) -> None:
    first = records.jobs.create(tenant, SPEC, "abc")
    assert records.jobs.create(tenant, SPEC, "abc").id == first.id
    assert records.jobs.create(tenant, SPEC, "other").id != first.id
    with pytest.raises(Conflict, match="another request"):
        records.jobs.create(tenant, JobSpec("dataset_2", "flowers", {}, True), "abc")


def test_a_tenants_flood_waits_while_another_tenants_job_is_in_the_queue(
    records: Records, tenant: str
) -> None:
    flood = [records.jobs.create(tenant, SPEC).id for _ in range(5)]
    other = records.tenants.create("other")[0].id
    plant_dataset(records, other)
    one = records.jobs.create(other, SPEC).id
    assert sent(records) == [flood[0], flood[1], one]
    records.jobs.end(tenant, flood[0], "succeeded")
    assert sent(records)[-1] == flood[2]


def used(records: Records, tenant: str, seconds: float, ago: int = 0) -> None:
    clock = records.store.time()[0] - ago
    records.store.set(f"rmadapter:tenant:{tenant}:use", f"{seconds} {clock}")


@pytest.fixture
def two(records: Records, tenant: str) -> tuple[FitJob, FitJob]:
    """A job of each of two tenants, queued in this order, and nobody else's."""
    records.store.delete("rmadapter:tenants-with-jobs")
    other = records.tenants.create("other")[0].id
    plant_dataset(records, other)
    first, second = (FitJob(t, records.jobs.create(t, SPEC).id) for t in (tenant, other))
    return first, second


@pytest.mark.parametrize(
    ("use", "other", "expected"),
    [
        ((0, 0), (0, 0), 0),  # in the order of the queue
        ((60, 0), (0, 0), 1),
        ((60, 0), (20, 0), 1),
        ((20, 0), (60, 0), 0),
        ((60, 1800), (20, 0), 0),  # three half-lives ago
    ],
)
def test_the_next_job_is_of_the_tenant_that_used_the_least_lately(
    records: Records, two: tuple[FitJob, FitJob], use: tuple, other: tuple, expected: int
) -> None:
    for job, (seconds, ago) in zip(two, (use, other), strict=True):
        used(records, job.tenant, seconds, ago)
    assert records.jobs.fairest(two[0]) == two[expected]
    again = [two[0].job] if expected else []
    assert sent(records) == [two[0].job, two[1].job, *again]  # put off, not lost


@pytest.mark.parametrize("taken", ["running", "ended", "cancelled"])
def test_a_job_that_another_has_or_that_ended_is_not_put_first(
    records: Records, two: tuple[FitJob, FitJob], taken: str
) -> None:
    used(records, two[0].tenant, 60)
    if taken == "running":
        records.jobs.claim(two[1], "one")
    elif taken == "ended":
        records.jobs.end(two[1].tenant, two[1].job, "failed")
    else:
        records.jobs.cancel(two[1].tenant, two[1].job)
    assert records.jobs.fairest(two[0]) == two[0]


def test_a_message_of_a_job_that_is_at_work_puts_no_other_off(
    records: Records, two: tuple[FitJob, FitJob]
) -> None:
    """A dead worker's message came back: its job is taken up again, not traded for another."""
    used(records, two[0].tenant, 60)
    records.jobs.claim(two[0], "one")
    assert records.jobs.fairest(two[0]) == two[0]


def test_a_job_that_went_ahead_is_known_when_its_message_comes(
    records: Records, two: tuple[FitJob, FitJob]
) -> None:
    used(records, two[0].tenant, 60)
    assert not records.jobs.went_ahead(two[1])
    assert records.jobs.fairest(two[0]) == two[1]
    assert records.jobs.went_ahead(two[1])


def test_a_job_that_went_ahead_and_lost_its_worker_is_sent_again(
    records: Records, two: tuple[FitJob, FitJob]
) -> None:
    used(records, two[0].tenant, 60)
    chosen = records.jobs.fairest(two[0])
    records.jobs.claim(chosen, "one")
    records.jobs.broker.flush(QUEUE)  # its own message came and found it at work
    records.store.delete(f"rmadapter:tenant:{chosen.tenant}:job:{chosen.job}:just-sent")
    records.jobs.release(chosen, "one")  # as its lease's end does
    records.jobs.dispatch_all()
    assert sent(records) == [chosen.job]


def test_the_time_that_a_fit_takes_is_what_its_tenant_used(
    records: Records, two: tuple[FitJob, FitJob]
) -> None:
    """Charged while it runs, at each renewal of the lease; lost time is no use."""
    job, name = two[0], f"rmadapter:tenant:{two[0].tenant}:job:{two[0].job}"
    records.jobs.claim(job, "one")
    records.store.hincrby(name, "charged_until", -5)
    assert records.jobs.renew(job, "one")
    seconds = float(records.store.get(f"rmadapter:tenant:{job.tenant}:use").split()[0])
    assert 5 <= seconds < 7
    records.store.hincrby(name, "charged_until", -1000)  # a clock that jumped
    assert records.jobs.renew(job, "one")
    seconds = float(records.store.get(f"rmadapter:tenant:{job.tenant}:use").split()[0])
    assert seconds < 7 + LEASE_SECONDS + 1
    assert 0 < records.store.ttl(f"rmadapter:tenant:{job.tenant}:use") <= 6000


def test_too_many_open_jobs_are_refused(records: Records, tenant: str) -> None:
    first = records.jobs.create(tenant, SPEC, "first")
    for _ in range(4):
        records.jobs.create(tenant, SPEC)
    with pytest.raises(OverQuota, match="open jobs: 5 of 5") as refused:
        records.jobs.create(tenant, SPEC)
    assert refused.value.retry_after == 10
    assert records.jobs.create(tenant, SPEC, "first").id == first.id


def test_a_job_that_a_crash_left_unsent_is_sent_by_the_sweep(records: Records, tenant: str) -> None:
    job = records.jobs.create(tenant, SPEC)
    records.jobs.broker.flush(QUEUE)
    records.store.hdel(f"rmadapter:tenant:{tenant}:job:{job.id}", "sent")
    records.jobs.dispatch_all()
    records.jobs.dispatch_all()
    assert sent(records).count(job.id) == 1


def test_a_job_whose_message_was_lost_is_sent_again(records: Records, tenant: str) -> None:
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.claim(job, "one")
    records.jobs.broker.flush(QUEUE)
    records.store.delete(f"rmadapter:tenant:{tenant}:job:{job.job}:just-sent")
    records.jobs.dispatch_all()
    assert sent(records) == []  # its worker lives
    records.jobs.release(job, "one")
    records.jobs.dispatch_all()
    records.jobs.dispatch_all()
    assert sent(records) == [job.job]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_neither_loses_a_job_nor_runs_it_twice(
    records: Records, tenant: str, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The host that takes and sends the job is an hour wrong; the next one is right."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + jump)
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.claim(job, "one")
    records.jobs.broker.flush(QUEUE)
    monkeypatch.undo()
    records.jobs.dispatch_all()
    assert sent(records) == []
    with pytest.raises(Conflict, match="another worker has"):
        records.jobs.claim(job, "two")
    waits = [f"rmadapter:tenant:{tenant}:job:{job.job}:{name}" for name in ("lease", "just-sent")]
    for name in waits:
        assert 0 < records.store.pttl(name) <= 15_000  # by Redis's own clock
        records.store.delete(name)
    records.jobs.dispatch_all()
    assert sent(records) == [job.job]
    assert records.jobs.claim(job, "two").attempts == 2
    assert not records.jobs.renew(job, "one")


def test_a_job_that_ended_never_keeps_the_next_one_waiting(records: Records, tenant: str) -> None:
    """Ending and leaving the open jobs are one step; told again, it leaves them again."""
    jobs = [records.jobs.create(tenant, SPEC).id for _ in range(3)]
    records.jobs.end(tenant, jobs[0], "succeeded")
    records.store.zadd(f"rmadapter:tenant:{tenant}:open-jobs", {jobs[0]: 0})
    records.jobs.end(tenant, jobs[0], "succeeded")
    assert records.store.zrange(f"rmadapter:tenant:{tenant}:open-jobs", 0, -1) == jobs[1:]
    assert sent(records)[-1] == jobs[2]


def test_a_worker_that_was_silent_for_too_long_does_not_get_its_job_back(
    records: Records, tenant: str
) -> None:
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.claim(job, "one")
    records.jobs.release(job, "one")  # as its lease's end does
    records.jobs.claim(job, "two")
    assert not records.jobs.renew(job, "one")
    records.jobs.end(tenant, job.job, "succeeded")
    records.jobs.release(job, "two")
    assert not records.jobs.renew(job, "one")


def test_a_cancelled_job_is_never_started(records: Records, tenant: str) -> None:
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.cancel(tenant, job.job)
    assert records.jobs.claim(job, "one") is None
    assert records.jobs.get(tenant, job.job).state == "cancelled"


def test_one_worker_alone_runs_a_job(records: Records, tenant: str) -> None:
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    assert records.jobs.claim(job, "one").state == "running"
    assert records.jobs.claim(job, "one").state == "running"  # asked again after a lost answer
    with pytest.raises(Conflict, match="another worker has"):
        records.jobs.claim(job, "two")
    assert records.jobs.renew(job, "one")
    assert not records.jobs.renew(job, "two")
    records.jobs.release(job, "one")
    assert records.jobs.claim(job, "two").attempts == 2


def test_a_job_ends_once(records: Records, tenant: str) -> None:
    job = records.jobs.create(tenant, SPEC)
    records.jobs.end(tenant, job.id, "succeeded", metrics={"a": 1})
    records.jobs.end(tenant, job.id, "failed", error="too late")
    ended = records.jobs.get(tenant, job.id)
    assert (ended.state, ended.metrics, ended.error) == ("succeeded", {"a": 1}, None)
    assert records.jobs.claim(FitJob(tenant, job.id), "one") is None


def test_a_queued_job_is_cancelled_at_once_a_running_one_by_its_worker(
    records: Records, tenant: str
) -> None:
    queued = records.jobs.create(tenant, SPEC)
    assert records.jobs.cancel(tenant, queued.id).state == "cancelled"
    with pytest.raises(Conflict, match="has cancelled already"):
        records.jobs.cancel(tenant, queued.id)
    running = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    records.jobs.claim(running, "one")
    progress = Progress(1, 2, 3, 4, 0.5)
    assert records.jobs.record_progress(running, progress) is False
    assert ProgressOut(**records.jobs.get(tenant, running.job).progress).part == 1
    assert records.jobs.cancel(tenant, running.job).state == "running"
    assert records.jobs.record_progress(running, progress) is True


def test_a_progress_of_an_earlier_release_has_no_parts() -> None:
    before = {"epoch": 1, "epochs": 2, "step": 3, "steps": 4, "loss": 0.5}
    assert ProgressOut(**before).parts is None


def test_a_version_number_is_given_to_a_job_once(records: Records, tenant: str) -> None:
    job = FitJob(tenant, records.jobs.create(tenant, SPEC).id)
    assert records.jobs.reserve_version(job, 4) == 4
    assert records.jobs.reserve_version(job, 5) == 4


def test_an_emptied_redis_is_restored_from_the_blobs(settings: Settings, records: Records) -> None:
    tenant, key = records.tenants.create("restored")
    dataset = records.datasets.create(tenant.id, "photos")
    records.datasets.add(tenant.id, dataset.id, Sample("Küche", "x.jpg", b"y"))
    before = records.datasets.get(tenant.id, dataset.id)
    for name in list(records.store.scan_iter(match=f"*{tenant.id}*")):
        records.store.delete(name)
    with pytest.raises(NotFound):
        records.datasets.get(tenant.id, dataset.id)
    assert restore(records) >= 1
    assert records.datasets.get(tenant.id, dataset.id) == before
    assert records.tenants.authenticate(key) == Grant(tenant.id, "manage")


def test_what_a_crash_left_of_a_deleted_data_set_stays_deleted(
    records: Records, tenant: str
) -> None:
    dataset = records.datasets.create(tenant, "photos").id
    records.datasets.add(tenant, dataset, Sample("cat", "x.jpg", b"y"))
    records.datasets.delete(tenant, dataset)
    records.blobs.put(f"tenants/{tenant}/datasets/{dataset}/images/0/{'0' * 64}", b"left")
    restore(records)
    with pytest.raises(NotFound):
        records.datasets.get(tenant, dataset)


def test_a_versions_file_is_written_once(records: Records, tenant: str, clip: FrozenCLIP) -> None:
    """A job taken up after its worker had stored the version finds that file, and keeps it."""
    first, second = (
        manifest_of(clip, tenant=tenant, created_at=when) for when in ("before", "after")
    )
    data = encode_artifact(Artifact(first, random_weights(clip, 1)))
    stored = records.adapters.add(first, data)
    again = records.adapters.add(second, encode_artifact(Artifact(second, random_weights(clip, 2))))
    assert again == stored == records.adapters.version(tenant, "a", 1)
    assert records.blobs.get(stored.path) == data
