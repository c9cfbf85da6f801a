"""Jobs: what was asked for, how it stands, and sending it to the workers.

A tenant's first few open jobs are in the queue, the rest wait here, so that a flood from one tenant
does not starve another. A job is marked as sent after it was: a crash between the two sends it
twice, never not at all, and a lease lets one worker alone run it.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dramatiq.brokers.redis import RedisBroker

from service.errors import Conflict, NotFound, OverQuota
from service.registry.store import Page, Store, key, members, new_id, now, tenant_key
from training.fit import Progress
from training.jobs import FitJob

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Publish = bool | Literal["if_better"]

LEASE_SECONDS = 8  # so long a dead worker keeps its job from others
_LOST_SECONDS = 60.0  # the queue itself gives a dead worker's job to another within 15
MAX_ATTEMPTS = 3  # a job that killed so many workers is at fault itself
_ENDED = ("succeeded", "failed", "cancelled")
_IDEMPOTENCY_SECONDS = 24 * 3600
_QUEUE_RETRY = 10  # seconds; a small fit takes less
# Each is one step for Redis, so that a cancel and a worker cannot both win, nor two requests take
# the last place. _OPEN counts as adapters those that are there and those that open jobs will make.
_OPEN = """
local open = redis.call('zrange', KEYS[1], 0, -1)
if #open >= tonumber(ARGV[1]) then return {'open jobs', #open} end
if not redis.call('zscore', KEYS[2], ARGV[3]) then
  local coming, count = {}, redis.call('zcard', KEYS[2])
  for _, id in ipairs(open) do
    local name = cjson.decode(redis.call('hget', KEYS[5] .. ':' .. id, 'spec') or '{}').adapter
    if name and not coming[name] and not redis.call('zscore', KEYS[2], name) then
      coming[name] = true
      count = count + 1
    end
  end
  if not coming[ARGV[3]] and count >= tonumber(ARGV[2]) then return {'adapters', count} end
end
local job = KEYS[5] .. ':' .. ARGV[4]
redis.call('hset', job, 'spec', ARGV[5], 'state', 'queued', 'created_at', ARGV[6])
redis.call('zadd', KEYS[3], 0, ARGV[4])
redis.call('zadd', KEYS[1], 0, ARGV[4])
redis.call('sadd', KEYS[4], ARGV[7])
return {}
"""
_START = """
if redis.call('hexists', KEYS[1], 'state') == 0 then return 0 end
if redis.call('hexists', KEYS[1], 'finished_at') == 1 then return 0 end
redis.call('hincrby', KEYS[1], 'attempts', 1)
redis.call('hset', KEYS[1], 'state', 'running', 'started_at', ARGV[1])
return 1
"""
_END = """
if redis.call('hexists', KEYS[1], 'state') == 0 then return 0 end
if redis.call('hsetnx', KEYS[1], 'finished_at', ARGV[1]) == 0 then return 0 end
redis.call('hset', KEYS[1], unpack(ARGV, 2))
return 1
"""
_BUSY_TENANTS = key("tenants-with-jobs")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for."""

    dataset: str
    adapter: str
    params: dict[str, Any]
    publish: Publish


@dataclass(frozen=True, slots=True)
class Job:
    """One fit and how it stands."""

    id: str
    tenant: str
    spec: JobSpec
    state: State
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    attempts: int = 0
    progress: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    version: int | None = None
    published: bool | None = None
    error: str | None = None
    cancel_requested: bool = False

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


class Jobs:
    """Takes jobs in, sends them out, and keeps how they stand."""

    def __init__(
        self, store: Store, broker: RedisBroker, max_open: int, max_adapters: int, parallel: int
    ) -> None:
        self._store, self._broker = store, broker
        self._max_open, self._max_adapters, self._parallel = max_open, max_adapters, parallel

    def create(self, tenant: str, spec: JobSpec, idempotency_key: str | None = None) -> Job:
        """A new job; with the same idempotency key, the same job.

        Raises:
            OverQuota: of open jobs, or of adapters when this would make one more.
            Conflict: the idempotency key was used for another request.
        """
        job = Job(new_id("job"), tenant, spec, "queued", now())
        if idempotency_key and (earlier := self._earlier(tenant, idempotency_key, spec, job.id)):
            return earlier
        try:
            self._open(job)
        except OverQuota:
            if idempotency_key:  # the same request may be sent again
                self._store.delete(_idempotency(tenant, idempotency_key))
            raise
        self.dispatch(tenant)
        return job

    def _open(self, job: Job) -> None:
        names = ("open-jobs", "adapters", "jobs")
        keys = [*(tenant_key(job.tenant, name) for name in names), _BUSY_TENANTS]
        keys.append(tenant_key(job.tenant, "job"))
        limits = {"open jobs": self._max_open, "adapters": self._max_adapters}
        record = (job.spec.adapter, job.id, json.dumps(asdict(job.spec)), job.created_at)
        refused = self._store.eval(_OPEN, len(keys), *keys, *limits.values(), *record, job.tenant)
        if refused:
            quota, used = refused
            retry = {"retry_after": _QUEUE_RETRY} if quota == "open jobs" else {}
            raise OverQuota(quota, limits[quota], used, **retry)

    def _earlier(
        self, tenant: str, idempotency_key: str, spec: JobSpec, new_job: str
    ) -> Job | None:
        name = _idempotency(tenant, idempotency_key)
        if self._store.set(name, new_job, nx=True, ex=_IDEMPOTENCY_SECONDS):
            return None
        job_id = self._store.get(name)
        try:
            earlier = self.get(tenant, job_id) if job_id else None
        except NotFound:
            raise Conflict("a request with this Idempotency-Key is under way") from None
        if earlier and earlier.spec != spec:
            raise Conflict("this Idempotency-Key was used for another request")
        return earlier

    def get(self, tenant: str, job_id: str) -> Job:
        record = self._store.hgetall(_name(tenant, job_id))
        if "state" not in record:
            raise NotFound(f"there is no job {job_id}")
        return _read(tenant, job_id, record)

    def page(self, tenant: str, limit: int, cursor: str | None) -> Page[Job]:
        page = members(self._store, tenant_key(tenant, "jobs"), limit, cursor)
        return Page([self.get(tenant, job_id) for job_id in page.items], page.cursor)

    def cancel(self, tenant: str, job_id: str) -> Job:
        """Ends a queued job now and asks the worker of a running one to stop."""
        job = self.get(tenant, job_id)
        if job.ended:
            raise Conflict(f"the job has {job.state} already")
        self._store.hset(_name(tenant, job_id), "cancel_requested", "1")
        if not self._store.exists(_name(tenant, job_id, "lease")):
            self.end(tenant, job_id, "cancelled")
        return self.get(tenant, job_id)

    def dispatch(self, tenant: str) -> None:
        """Sends the tenant's first open jobs that were not sent yet."""
        open_jobs = self._store.zrange(tenant_key(tenant, "open-jobs"), 0, self._parallel - 1)
        for job_id in open_jobs:
            if self._must_send(tenant, job_id):
                self._broker.enqueue(FitJob(tenant, job_id).to_message())
                self._store.hset(_name(tenant, job_id), "sent", str(time.time()))
        if not open_jobs:
            self._store.srem(_BUSY_TENANTS, tenant)
            if self._store.zcard(tenant_key(tenant, "open-jobs")):  # created meanwhile
                self._store.sadd(_BUSY_TENANTS, tenant)

    def _must_send(self, tenant: str, job_id: str) -> bool:
        """Not sent yet; or running without a worker for so long that its message must be lost."""
        sent, state = self._store.hmget(_name(tenant, job_id), ["sent", "state"])
        if sent is None:
            return True
        if state != "running" or time.time() - float(sent) < _LOST_SECONDS:
            return False
        return not self._store.exists(_name(tenant, job_id, "lease"))

    def dispatch_all(self) -> None:
        """What a crash between recording and sending left behind; workers call it now and then."""
        for tenant in self._store.smembers(_BUSY_TENANTS):
            self.dispatch(tenant)

    def waiting(self) -> int:
        """Open jobs of all tenants."""
        tenants = self._store.smembers(_BUSY_TENANTS)
        return sum(self._store.zcard(tenant_key(tenant, "open-jobs")) for tenant in tenants)

    def claim(self, job: FitJob, worker: str) -> Job | None:
        """Takes a job for one worker; None when there is nothing to do: ended or gone.

        Raises:
            Conflict: another worker has it, or had it until it died a few seconds ago.
        """
        name = _name(job.tenant, job.job)
        lease = f"{name}:lease"
        taken = self._store.set(lease, worker, nx=True, ex=LEASE_SECONDS)
        if not taken and self._store.get(lease) != worker:
            raise Conflict(f"another worker has job {job.job}")
        if not self._store.eval(_START, 1, name, now()):
            self.release(job, worker)
            return None
        return self.get(job.tenant, job.job)

    def renew(self, job: FitJob, worker: str) -> bool:
        """Keeps the lease; False when it was lost to another worker."""
        name = _name(job.tenant, job.job, "lease")
        if self._store.get(name) not in (None, worker):
            return False
        return bool(self._store.set(name, worker, ex=LEASE_SECONDS))

    def release(self, job: FitJob, worker: str) -> None:
        name = _name(job.tenant, job.job, "lease")
        if self._store.get(name) == worker:
            self._store.delete(name)

    def record_progress(self, job: FitJob, progress: Progress) -> bool:
        """Writes how far a fit is; True when it should stop: cancelled, or its tenant is gone."""
        name = _name(job.tenant, job.job)
        state, cancelled = self._store.hmget(name, ["state", "cancel_requested"])
        if state is None or cancelled:
            return True
        self._store.hset(name, "progress", json.dumps(asdict(progress)))
        return False

    def reserve_version(self, job: FitJob, number: int) -> int:
        """The version that this job makes: the first number wins, also after a worker's death."""
        name = _name(job.tenant, job.job)
        self._store.hsetnx(name, "version", str(number))
        return int(self._store.hget(name, "version"))

    def end(self, tenant: str, job_id: str, state: State, **fields: Any) -> None:
        """Ends a job once: the first end stands. Then the tenant's next job may go."""
        name = _name(tenant, job_id)
        mapping = {k: json.dumps(v) for k, v in fields.items() if v is not None} | {"state": state}
        flat = [part for pair in mapping.items() for part in pair]
        self._store.eval(_END, 1, name, now(), *flat)
        self._store.zrem(tenant_key(tenant, "open-jobs"), job_id)
        self.dispatch(tenant)


def _name(tenant: str, job_id: str, *parts: str) -> str:
    return tenant_key(tenant, "job", job_id, *parts)


def _idempotency(tenant: str, idempotency_key: str) -> str:
    digest = hashlib.sha256(idempotency_key.encode()).hexdigest()
    return tenant_key(tenant, "idempotency", digest)


def _read(tenant: str, job_id: str, record: dict[str, str]) -> Job:
    def loaded(name: str) -> Any:
        return json.loads(record[name]) if name in record else None

    return Job(
        job_id,
        tenant,
        JobSpec(**json.loads(record["spec"])),
        record["state"],  # type: ignore[arg-type]
        record["created_at"],
        record.get("started_at"),
        record.get("finished_at"),
        int(record.get("attempts", 0)),
        loaded("progress"),
        loaded("metrics"),
        loaded("version"),
        loaded("published"),
        loaded("error"),
        "cancel_requested" in record,
    )
