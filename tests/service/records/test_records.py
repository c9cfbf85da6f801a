"""Records on a real Redis: what is written is found, by its owner alone, and once."""

import time

import pytest

from adapters.artifact import Artifact, Manifest, encode
from adapters.clip import FrozenCLIP
from service.errors import Conflict, NotFound, OverQuota, Unauthorized
from service.records import Registry, open_registry
from service.records.jobs import JobSpec
from service.records.restore import restore
from service.records.tenants import Grant
from service.settings import Settings
from tests.support.api import away_from_workers
from tests.support.random_adapters import random_weights
from training.data import Sample
from training.fit import Progress
from training.jobs import QUEUE, FitJob

SPEC = JobSpec("dataset_1", "flowers", {}, True)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    limits = settings.model_copy(update={"max_open_jobs": 5, "tenant_parallel_jobs": 2})
    return open_registry(away_from_workers(settings), settings.blob_url, limits)


@pytest.fixture
def tenant(registry: Registry) -> str:
    return registry.tenants.create("someone")[0].id


@pytest.fixture(autouse=True)
def empty_queue(registry: Registry):
    yield
    registry.jobs._broker.flush(QUEUE)


def sent(registry: Registry) -> list[str]:
    """The jobs in the queue, first to last."""
    store = registry.store
    ids = store.lrange(f"dramatiq:{QUEUE}", 0, -1)
    import json

    return [json.loads(store.hget(f"dramatiq:{QUEUE}.msgs", i))["args"][1] for i in ids]


def test_no_key_is_stored(registry: Registry) -> None:
    _, key = registry.tenants.create("Acme")
    for name in registry.store.scan_iter():
        kind = registry.store.type(name)
        assert key not in name
        if kind == "string":
            assert key not in registry.store.get(name)
    for path in registry.blobs.paths("tenants"):
        if path.endswith(".json"):
            assert key.encode() not in registry.blobs.get(path)


def test_erasing_a_tenant_leaves_nothing(registry: Registry) -> None:
    tenant, key = registry.tenants.create("gone")
    dataset = registry.datasets.create(tenant.id, "d")
    registry.datasets.add(tenant.id, dataset.id, Sample("cat", "1.jpg", b"1"))
    registry.jobs.create(tenant.id, SPEC)
    registry.tenants.erase(tenant.id)
    assert not [name for name in registry.store.scan_iter() if tenant.id in name]
    assert not list(registry.blobs.paths(f"tenants/{tenant.id}"))
    with pytest.raises(Unauthorized):
        registry.tenants.authenticate(key)


def test_pages_hold_every_item_once_in_order(registry: Registry, tenant: str) -> None:
    made = [registry.datasets.create(tenant, str(i)).id for i in range(7)]
    found, cursor = [], None
    while True:
        page = registry.datasets.page(tenant, 3, cursor)
        found += [dataset.id for dataset in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(found) == sorted(made)
    assert len(found) == 7


def test_the_same_picture_is_stored_once(registry: Registry, tenant: str) -> None:
    dataset = registry.datasets.create(tenant, "d").id
    for name in ("a.jpg", "again.jpg"):
        assert registry.datasets.add(tenant, dataset, Sample("cat", name, b"x")).label == "cat"
    assert registry.datasets.add(tenant, dataset, Sample("dog", "c.jpg", b"x")).label == "cat"
    assert registry.datasets.get(tenant, dataset).labels == {"cat": 1}


def test_any_label_is_kept_as_it_was(registry: Registry, tenant: str) -> None:
    dataset = registry.datasets.create(tenant, "d").id
    labels = ["Küchenschelle", "a/b", "..", "日本 " * 20, "%2e"]
    for i, label in enumerate(labels):
        registry.datasets.add(tenant, dataset, Sample(label, "x.jpg", bytes([i])))
    assert {s.label for s in registry.datasets.samples(tenant, dataset)} == set(labels)


def test_the_same_idempotency_key_is_the_same_job(registry: Registry, tenant: str) -> None:
    first = registry.jobs.create(tenant, SPEC, "abc")
    assert registry.jobs.create(tenant, SPEC, "abc").id == first.id
    assert registry.jobs.create(tenant, SPEC, "other").id != first.id
    with pytest.raises(Conflict, match="another request"):
        registry.jobs.create(tenant, JobSpec("dataset_2", "flowers", {}, True), "abc")


def test_a_tenants_flood_waits_while_another_tenants_job_is_in_the_queue(
    registry: Registry, tenant: str
) -> None:
    flood = [registry.jobs.create(tenant, SPEC).id for _ in range(5)]
    other = registry.tenants.create("other")[0].id
    one = registry.jobs.create(other, SPEC).id
    assert sent(registry) == [flood[0], flood[1], one]
    registry.jobs.end(tenant, flood[0], "succeeded")
    assert sent(registry)[-1] == flood[2]


def test_too_many_open_jobs_are_refused(registry: Registry, tenant: str) -> None:
    first = registry.jobs.create(tenant, SPEC, "first")
    for _ in range(4):
        registry.jobs.create(tenant, SPEC)
    with pytest.raises(OverQuota, match="open jobs: 5 of 5") as refused:
        registry.jobs.create(tenant, SPEC)
    assert refused.value.retry_after == 10
    assert registry.jobs.create(tenant, SPEC, "first").id == first.id


def test_a_job_that_a_crash_left_unsent_is_sent_by_the_sweep(
    registry: Registry, tenant: str
) -> None:
    job = registry.jobs.create(tenant, SPEC)
    registry.jobs._broker.flush(QUEUE)
    registry.store.hdel(f"rmadapter:tenant:{tenant}:job:{job.id}", "sent")
    registry.jobs.dispatch_all()
    registry.jobs.dispatch_all()
    assert sent(registry).count(job.id) == 1


def test_a_job_whose_message_was_lost_is_sent_again(registry: Registry, tenant: str) -> None:
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    registry.jobs.claim(job, "one")
    registry.jobs._broker.flush(QUEUE)
    registry.store.delete(f"rmadapter:tenant:{tenant}:job:{job.job}:just-sent")
    registry.jobs.dispatch_all()
    assert sent(registry) == []  # its worker lives
    registry.jobs.release(job, "one")
    registry.jobs.dispatch_all()
    registry.jobs.dispatch_all()
    assert sent(registry) == [job.job]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_neither_loses_a_job_nor_runs_it_twice(
    registry: Registry, tenant: str, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The host that takes and sends the job is an hour wrong; the next one is right."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + jump)
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    registry.jobs.claim(job, "one")
    registry.jobs._broker.flush(QUEUE)
    monkeypatch.undo()
    registry.jobs.dispatch_all()
    assert sent(registry) == []
    with pytest.raises(Conflict, match="another worker has"):
        registry.jobs.claim(job, "two")
    waits = [f"rmadapter:tenant:{tenant}:job:{job.job}:{name}" for name in ("lease", "just-sent")]
    for name in waits:
        assert 0 < registry.store.pttl(name) <= 15_000  # by Redis's own clock
        registry.store.delete(name)
    registry.jobs.dispatch_all()
    assert sent(registry) == [job.job]
    assert registry.jobs.claim(job, "two").attempts == 2
    assert not registry.jobs.renew(job, "one")


def test_a_job_that_ended_never_keeps_the_next_one_waiting(registry: Registry, tenant: str) -> None:
    """Ending and leaving the open jobs are one step; told again, it leaves them again."""
    jobs = [registry.jobs.create(tenant, SPEC).id for _ in range(3)]
    registry.jobs.end(tenant, jobs[0], "succeeded")
    registry.store.zadd(f"rmadapter:tenant:{tenant}:open-jobs", {jobs[0]: 0})
    registry.jobs.end(tenant, jobs[0], "succeeded")
    assert registry.store.zrange(f"rmadapter:tenant:{tenant}:open-jobs", 0, -1) == jobs[1:]
    assert sent(registry)[-1] == jobs[2]


def test_a_worker_that_was_silent_for_too_long_does_not_get_its_job_back(
    registry: Registry, tenant: str
) -> None:
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    registry.jobs.claim(job, "one")
    registry.jobs.release(job, "one")  # as its lease's end does
    registry.jobs.claim(job, "two")
    assert not registry.jobs.renew(job, "one")
    registry.jobs.end(tenant, job.job, "succeeded")
    registry.jobs.release(job, "two")
    assert not registry.jobs.renew(job, "one")


def test_a_cancelled_job_is_never_started(registry: Registry, tenant: str) -> None:
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    registry.jobs.cancel(tenant, job.job)
    assert registry.jobs.claim(job, "one") is None
    assert registry.jobs.get(tenant, job.job).state == "cancelled"


def test_one_worker_alone_runs_a_job(registry: Registry, tenant: str) -> None:
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    assert registry.jobs.claim(job, "one").state == "running"
    assert registry.jobs.claim(job, "one").state == "running"  # asked again after a lost answer
    with pytest.raises(Conflict, match="another worker has"):
        registry.jobs.claim(job, "two")
    assert registry.jobs.renew(job, "one")
    assert not registry.jobs.renew(job, "two")
    registry.jobs.release(job, "one")
    assert registry.jobs.claim(job, "two").attempts == 2


def test_a_job_ends_once(registry: Registry, tenant: str) -> None:
    job = registry.jobs.create(tenant, SPEC)
    registry.jobs.end(tenant, job.id, "succeeded", metrics={"a": 1})
    registry.jobs.end(tenant, job.id, "failed", error="too late")
    ended = registry.jobs.get(tenant, job.id)
    assert (ended.state, ended.metrics, ended.error) == ("succeeded", {"a": 1}, None)
    assert registry.jobs.claim(FitJob(tenant, job.id), "one") is None


def test_a_queued_job_is_cancelled_at_once_a_running_one_by_its_worker(
    registry: Registry, tenant: str
) -> None:
    queued = registry.jobs.create(tenant, SPEC)
    assert registry.jobs.cancel(tenant, queued.id).state == "cancelled"
    with pytest.raises(Conflict, match="has cancelled already"):
        registry.jobs.cancel(tenant, queued.id)
    running = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    registry.jobs.claim(running, "one")
    progress = Progress(1, 2, 3, 4, 0.5)
    assert registry.jobs.record_progress(running, progress) is False
    assert registry.jobs.cancel(tenant, running.job).state == "running"
    assert registry.jobs.record_progress(running, progress) is True


def test_a_version_number_is_given_to_a_job_once(registry: Registry, tenant: str) -> None:
    job = FitJob(tenant, registry.jobs.create(tenant, SPEC).id)
    assert registry.jobs.reserve_version(job, 4) == 4
    assert registry.jobs.reserve_version(job, 5) == 4


def test_an_emptied_redis_is_restored_from_the_blobs(
    settings: Settings, registry: Registry
) -> None:
    tenant, key = registry.tenants.create("restored")
    dataset = registry.datasets.create(tenant.id, "photos")
    registry.datasets.add(tenant.id, dataset.id, Sample("Küche", "x.jpg", b"y"))
    before = registry.datasets.get(tenant.id, dataset.id)
    for name in list(registry.store.scan_iter(match=f"*{tenant.id}*")):
        registry.store.delete(name)
    with pytest.raises(NotFound):
        registry.datasets.get(tenant.id, dataset.id)
    assert restore(registry) >= 1
    assert registry.datasets.get(tenant.id, dataset.id) == before
    assert registry.tenants.authenticate(key) == Grant(tenant.id, "manage")


def test_what_a_crash_left_of_a_deleted_data_set_stays_deleted(
    registry: Registry, tenant: str
) -> None:
    dataset = registry.datasets.create(tenant, "photos").id
    registry.datasets.add(tenant, dataset, Sample("cat", "x.jpg", b"y"))
    registry.datasets.delete(tenant, dataset)
    registry.blobs.put(f"tenants/{tenant}/datasets/{dataset}/images/0/{'0' * 64}", b"left")
    restore(registry)
    with pytest.raises(NotFound):
        registry.datasets.get(tenant, dataset)


def test_a_versions_file_is_written_once(registry: Registry, tenant: str, clip: FrozenCLIP) -> None:
    """A job taken up after its worker had stored the version finds that file, and keeps it."""
    first, second = (
        Manifest(clip.name, clip.fingerprint, tenant, "a", 1, ("x", "y"), "{}", 10.0, 3, 2, when)
        for when in ("before", "after")
    )
    data = encode(Artifact(first, random_weights(clip, 1)))
    stored = registry.adapters.add(first, data)
    again = registry.adapters.add(second, encode(Artifact(second, random_weights(clip, 2))))
    assert again == stored == registry.adapters.version(tenant, "a", 1)
    assert registry.blobs.get(stored.path) == data
