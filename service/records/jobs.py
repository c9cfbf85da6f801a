"""Jobs: their requests, their states, and how they get to the workers.

A tenant's first few open jobs are in the queue and the rest wait here, so that one tenant's flood
does not starve others. Of the jobs in the queue, a worker takes one of the tenant whose fits took
the least time lately. A job is marked as sent after it was sent: a crash between the two sends it
twice, and a lease lets only one worker run it. Leases and waits use Redis's clock, so a wrong clock
of a host cannot run a job twice or never. If Redis's clock is set back, the rest of a lease or a
wait is cut to its full length.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dramatiq.brokers.redis import RedisBroker

from service.errors import Conflict, NotFound, OverQuota
from service.records.store import (
    Page,
    RecordStore,
    members,
    new_id,
    now,
    redis_key,
    tenant_redis_key,
)
from training.fit import Progress
from training.jobs import FitJob

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Publish = bool | Literal["if_better"]
Fit = Literal["instant", "full"]

LEASE_SECONDS = 8  # how long other workers wait for the job of a dead one
_LOST_SECONDS = 15  # by then the queue has given a dead worker's job to another worker
MAX_ATTEMPTS = 3  # a job during which so many workers died has failed
_ENDED = ("succeeded", "failed", "cancelled")
_IDEMPOTENCY_SECONDS = 24 * 3600
_HALF_LIFE_SECONDS = 600  # after this, the time that a fit took counts half
_UNSEEN = 200  # jobs of a tenant whose message no worker has seen; messages take memory in Redis
_QUEUE_RETRY = 10  # seconds; a small fit takes less
# Each script is one step for Redis. So a cancellation and a worker cannot both win, two requests
# cannot take the last place, and a crash leaves nothing half done. It may be repeated, as the
# client does if the connection breaks before the answer. _CREATE counts the adapters and versions
# that are there and those that open jobs will make.
_CREATE = """
local open, adapters, versions, jobs, tenants, requests, prefix, dataset = unpack(KEYS)
local most, most_adapters, most_versions, most_bytes, most_unseen = unpack(ARGV, 1, 5)
local adapter, id, spec, created, tenant, request, seconds = unpack(ARGV, 6)
local job, clock = prefix .. ':' .. id, tonumber(redis.call('time')[1])
if redis.call('hexists', job, 'state') == 1 then return {'', id} end
local found = request ~= '' and redis.call('hget', requests, request)
if found then
  local earlier, at = string.match(found, '^(%S+) (%d+)$')
  if clock - at < tonumber(seconds) then return {'', earlier} end
end
if redis.call('exists', dataset) == 0 then return {'gone', 0} end
local unseen = own .. ':unseen-jobs'
redis.call('zremrangebyscore', unseen, 0, clock - seconds)
if redis.call('zcard', unseen) >= tonumber(most_unseen) then
  return {'cancelled jobs in the queue', redis.call('zcard', unseen)}
end
local waiting = redis.call('zrange', open, 0, -1)
if #waiting >= tonumber(most) then return {'open jobs', #waiting} end
if accounted() >= tonumber(most_bytes) then return {'record bytes', accounted()} end
local coming, count, of_this = {}, redis.call('zcard', adapters), redis.call('hlen', versions)
for _, other in ipairs(waiting) do
  local name = cjson.decode(redis.call('hget', prefix .. ':' .. other, 'spec') or '{}').adapter
  if name == adapter then of_this = of_this + 1 end
  if name and not coming[name] and not redis.call('zscore', adapters, name) then
    coming[name] = true
    count = count + 1
  end
end
local another = not redis.call('zscore', adapters, adapter) and not coming[adapter]
if another and count >= tonumber(most_adapters) then return {'adapters', count} end
if of_this >= tonumber(most_versions) then return {'versions', of_this} end
redis.call('hset', job, 'spec', spec, 'state', 'queued', 'created_at', created)
if request ~= '' then
  redis.call('hset', requests, request, id .. ' ' .. clock)
  redis.call('hset', job, 'request', request)
end
redis.call('zadd', jobs, 0, id)
redis.call('zadd', open, 0, id)
redis.call('sadd', tenants, tenant)
return {'', id}
"""
# The seconds that a tenant's fits took; they count half after each half-life.
_USED = f"""
local clock = tonumber(redis.call('time')[1])
local function used(use)
  local seconds, at = string.match(redis.call('get', use) or '0 0', '^(%S+) (%S+)$')
  return seconds * 0.5 ^ (math.max(0, clock - at) / {_HALF_LIFE_SECONDS})
end
"""
_USED_BY_EACH = f"""{_USED}
local each = {{}}
for i, use in ipairs(KEYS) do each[i] = tostring(used(use)) end
return each
"""
_CLAIM = """
local job, lease = unpack(KEYS)
local worker, seconds, now, id = unpack(ARGV)
redis.call('zrem', own .. ':unseen-jobs', id)
local holder = redis.call('get', lease)
if holder and holder ~= worker then
  if redis.call('pttl', lease) > seconds * 1000 then redis.call('expire', lease, seconds) end
  return -1
end
if redis.call('hexists', job, 'state') == 0 then return 0 end
if redis.call('hexists', job, 'finished_at') == 1 then return 0 end
if not holder then
    redis.call('hincrby', job, 'attempts', 1)
    redis.call('hset', job, 'state', 'running', 'started_at', now)
    redis.call('hset', job, 'charged_until', redis.call('time')[1])
    redis.call('hdel', job, 'stage', 'progress')
end
redis.call('set', lease, worker, 'EX', seconds)
return 1
"""
# It also adds the fit's time since the last renewal to its tenant's time.
_RENEW = f"""{_USED}
local job, lease, use = unpack(KEYS)
local worker, seconds = unpack(ARGV)
local holder = redis.call('get', lease)
if holder and holder ~= worker then return 0 end
if redis.call('hexists', job, 'finished_at') == 1 then return 0 end
redis.call('set', lease, worker, 'EX', seconds)
local since = tonumber(redis.call('hget', job, 'charged_until') or clock)
local more = math.min(math.max(0, clock - since), tonumber(seconds))
redis.call('hset', job, 'charged_until', clock)
redis.call('set', use, (used(use) + more) .. ' ' .. clock, 'EX', {10 * _HALF_LIFE_SECONDS})
return 1
"""
# It also forgets jobs that ended long ago, and the oldest if there are too many; a few at a time.
_END = """
local job, open, jobs, ended, prefix, requests = unpack(KEYS)
local id, finished, seconds, most = unpack(ARGV, 1, 4)
redis.call('zrem', open, id)
if redis.call('hexists', job, 'state') == 0 then return 0 end
if redis.call('hsetnx', job, 'finished_at', finished) == 0 then return 0 end
redis.call('hset', job, unpack(ARGV, 5))
local clock = tonumber(redis.call('time')[1])
redis.call('zadd', ended, clock, id)
local function forget(old)
  local name = prefix .. ':' .. old
  local request = redis.call('hget', name, 'request')
  if request then redis.call('hdel', requests, request) end
  redis.call('del', name)
  redis.call('zrem', jobs, old)
  redis.call('zrem', ended, old)
end
for _, old in ipairs(redis.call('zrangebyscore', ended, 0, clock - seconds, 'LIMIT', 0, 100)) do
  forget(old)
end
local over = math.min(100, redis.call('zcard', ended) - most)
if over > 0 then
  for _, old in ipairs(redis.call('zrange', ended, 0, over - 1)) do forget(old) end
end
return 1
"""
# Sets a field of a job; 0 if the job was forgotten.
_SET_FIELD = """
if redis.call('hexists', KEYS[1], 'state') == 0 then return 0 end
redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3])
return 1
"""
_SENT = """
if redis.call('hexists', KEYS[1], 'state') == 0 then return 0 end
redis.call('set', KEYS[2], '1', 'EX', ARGV[1])
redis.call('zadd', own .. ':unseen-jobs', redis.call('time')[1], ARGV[2])
redis.call('hset', KEYS[1], 'sent', '1')
return 1
"""
_BUSY_TENANTS = redis_key("tenants-with-jobs")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job shall do."""

    dataset: str
    adapter: str
    params: dict[str, Any]
    publish: Publish
    fit: Fit = "full"  # "instant": no adapter is fitted

    def to_json(self) -> str:
        """Its record. The default `fit` is left out, for releases that do not know it."""
        plain = asdict(self)
        if self.fit == "full":
            del plain["fit"]
        return json.dumps(plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fit and its state."""

    id: str
    tenant: str
    spec: JobSpec
    state: State
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    attempts: int = 0
    stage: str | None = None  # what it does before its first step: reading, instant
    progress: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    version: int | None = None
    instant_version: int | None = None  # went live while the fit goes on
    published: bool | None = None
    error: str | None = None
    cancel_requested: bool = False

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in _ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The limits of one tenant."""

    open_jobs: int
    adapters: int
    versions: int  # of one adapter
    parallel: int  # how many of its open jobs may run at once
    kept_seconds: int  # how long an ended job is kept
    ended_jobs: int  # how many ended jobs are kept
    record_bytes: int  # of the records of its pictures and versions


class Jobs:
    """Creates jobs, sends them to the workers, and keeps their states."""

    def __init__(self, store: RecordStore, broker: RedisBroker, bounds: Bounds) -> None:
        self._store, self.broker, self.bounds = store, broker, bounds

    def create(
        self,
        tenant: str,
        spec: JobSpec,
        idempotency_key: str | None = None,
        trace: str | None = None,
    ) -> Job:
        """A new job, or the earlier job of the same idempotency key.

        Args:
            tenant: whose job it is.
            spec: what it shall do.
            idempotency_key: of the client; None if it sent none.
            trace: W3C's traceparent of the request.

        Raises:
            OverQuota: of open jobs, of bytes of records, of the adapter's versions, or of adapters
                when this would make one more.
            Conflict: the idempotency key was used for another request.
        """
        job_id = self._create(tenant, spec, idempotency_key)
        job = self.get(tenant, job_id)
        if job.spec != spec:
            raise Conflict("this Idempotency-Key was used for another request")
        if trace:
            self._set(tenant, job_id, "hsetnx", "trace", trace)
        self.dispatch(tenant)
        return job

    def _create(self, tenant: str, spec: JobSpec, idempotency_key: str | None) -> str:
        names = (("open-jobs",), ("adapters",), ("adapter", spec.adapter, "versions"), ("jobs",))
        keys = [*(tenant_redis_key(tenant, *name) for name in names), _BUSY_TENANTS]
        keys += [tenant_redis_key(tenant, part) for part in ("requests", "job")]
        keys += [tenant_redis_key(tenant, "dataset", spec.dataset)]
        bounds = self.bounds
        limits = {
            "open jobs": bounds.open_jobs,
            "adapters": bounds.adapters,
            "versions": bounds.versions,
            "record bytes": bounds.record_bytes,
            "cancelled jobs in the queue": _UNSEEN,
        }
        record = (spec.adapter, new_id("job"), spec.to_json(), now(), tenant)
        request = (_digest(idempotency_key), _IDEMPOTENCY_SECONDS)
        refused, outcome = self._store.tenant_step(
            tenant, _CREATE, keys, *limits.values(), *record, *request
        )
        if refused == "gone":
            raise NotFound(f"there is no data set {spec.dataset}")
        if refused:
            retry = {"retry_after": _QUEUE_RETRY} if "jobs" in refused else {}
            raise OverQuota(refused, limits[refused], outcome, **retry)
        return str(outcome)

    def get(self, tenant: str, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: there is none of this id.
        """
        record = self._store.hgetall(_name(tenant, job_id))
        if "state" not in record:
            raise NotFound(f"there is no job {job_id}")
        return _read(tenant, job_id, record)

    def page(self, tenant: str, limit: int, cursor: str | None) -> Page[Job]:
        """Part of a tenant's jobs, the oldest first."""
        page = members(self._store, tenant_redis_key(tenant, "jobs"), limit, cursor)
        with self._store.pipeline() as pipe:
            for job_id in page.items:
                pipe.hgetall(_name(tenant, job_id))
            records = zip(page.items, pipe.execute(), strict=True)
        there = [_read(tenant, job_id, record) for job_id, record in records if record]
        return Page(there, page.cursor)

    def trace(self, tenant: str, job_id: str) -> str | None:
        """W3C's traceparent of the request that created the job."""
        trace: str | None = self._store.hget(_name(tenant, job_id), "trace")
        return trace

    def cancel(self, tenant: str, job_id: str) -> Job:
        """Ends a queued job now, or asks the worker of a running job to stop."""
        job = self.get(tenant, job_id)
        if job.ended:
            raise Conflict(f"the job has {job.state} already")
        self._set(tenant, job_id, "hset", "cancel_requested", "1")
        if not self._store.exists(_name(tenant, job_id, "lease")):
            self.end(tenant, job_id, "cancelled")
        return self.get(tenant, job_id)

    def dispatch(self, tenant: str) -> None:
        """Sends the tenant's first open jobs that were not sent yet."""
        open_jobs = self._store.zrange(
            tenant_redis_key(tenant, "open-jobs"), 0, self.bounds.parallel - 1
        )
        for job_id in open_jobs:
            if self._must_send(tenant, job_id):
                self.broker.enqueue(FitJob(tenant, job_id).to_message())
                names = (_name(tenant, job_id), _name(tenant, job_id, "just-sent"))
                self._store.tenant_step(tenant, _SENT, names, _LOST_SECONDS, job_id)
        if not open_jobs:
            self._store.srem(_BUSY_TENANTS, tenant)
            if self._store.zcard(tenant_redis_key(tenant, "open-jobs")):  # created meanwhile
                self._store.sadd(_BUSY_TENANTS, tenant)

    def _must_send(self, tenant: str, job_id: str) -> bool:
        """Whether it was not sent yet, or runs without a worker, so that its message is lost."""
        sent, state = self._store.hmget(_name(tenant, job_id), ["sent", "state"])
        if sent is None or state != "running":
            return sent is None
        waits = {"lease": LEASE_SECONDS, "just-sent": _LOST_SECONDS}
        held = [self._holds(_name(tenant, job_id, wait), s) for wait, s in waits.items()]
        return not any(held)

    def _holds(self, name: str, seconds: int) -> bool:
        """Whether a wait is there; it is cut to `seconds` if Redis's clock was set back."""
        left: int = self._store.pttl(name)  # ms; below 0: it is not there
        if left > 1000 * seconds:
            self._store.expire(name, seconds)
        return left >= 0

    def dispatch_all(self) -> None:
        """Sends jobs that a crash left recorded but not sent; workers call it now and then."""
        for tenant in self._store.smembers(_BUSY_TENANTS):
            try:
                self.dispatch(tenant)
            except NotFound:  # the tenant was erased
                self._store.srem(_BUSY_TENANTS, tenant)

    def waiting(self) -> int:
        """Open jobs of all tenants."""
        with self._store.pipeline(transaction=False) as pipe:
            for tenant in self._store.smembers(_BUSY_TENANTS):
                pipe.zcard(tenant_redis_key(tenant, "open-jobs"))
            return sum(pipe.execute())

    def open_for(self, tenant: str, adapter: str) -> int:
        """The tenant's open jobs that fit this adapter."""
        waiting = self._store.zrange(tenant_redis_key(tenant, "open-jobs"), 0, -1)
        with self._store.pipeline() as pipe:
            for job_id in waiting:
                pipe.hget(_name(tenant, job_id), "spec")
            specs = pipe.execute() if waiting else []
        return sum(json.loads(spec)["adapter"] == adapter for spec in specs if spec)

    def fairest(self, named: FitJob) -> FitJob:
        """The job to do now: the named one, or that of a tenant whose fits took less time lately.

        If it is another one, the named job is sent again. The other job's own message then finds it
        done or running.
        """
        if self._store.hget(_name(named.tenant, named.job), "state") != "queued":
            return named
        used = self._used({named.tenant, *self._store.smembers(_BUSY_TENANTS)})
        for tenant in sorted(used, key=used.__getitem__):
            if used[tenant] >= used[named.tenant]:
                return named
            if (job := self._first_queued(tenant)) is not None:
                try:
                    self._set(tenant, job, "hset", "ahead", "1")
                except NotFound:  # the tenant was erased
                    continue
                self.broker.enqueue(named.to_message())
                return FitJob(tenant, job)
        return named

    def went_ahead(self, job: FitJob) -> bool:
        """Whether it was begun before its own message came: it is sent again if its worker dies."""
        return bool(self._store.hexists(_name(job.tenant, job.job), "ahead"))

    def _used(self, tenants: set[str]) -> dict[str, float]:
        """The seconds that each tenant's fits took; they count half after each half-life."""
        names = [tenant_redis_key(tenant, "use") for tenant in tenants]
        each = self._store.eval(_USED_BY_EACH, len(names), *names)
        return dict(zip(tenants, map(float, each), strict=True))

    def _first_queued(self, tenant: str) -> str | None:
        """The first of the tenant's sent jobs that no worker has."""
        name = tenant_redis_key(tenant, "open-jobs")
        for job_id in self._store.zrange(name, 0, self.bounds.parallel - 1):
            states = self._store.hmget(_name(tenant, job_id), ["state", "sent", "cancel_requested"])
            if states == ["queued", "1", None]:
                return str(job_id)
        return None

    def claim(self, job: FitJob, worker: str) -> Job | None:
        """Takes a job for one worker; None if it has ended or is gone.

        Raises:
            Conflict: another worker has it, or had it until it died a few seconds ago.
        """
        try:
            taken = self._store.tenant_step(
                job.tenant, _CLAIM, _leased(job), worker, LEASE_SECONDS, now(), job.job
            )
        except NotFound:  # the tenant was erased
            return None
        if taken == -1:
            raise Conflict(f"another worker has job {job.job}")
        return self.get(job.tenant, job.job) if taken else None

    def renew(self, job: FitJob, worker: str) -> bool:
        """Renews the lease; False if another worker has it or has ended the job."""
        try:
            names = (*_leased(job), tenant_redis_key(job.tenant, "use"))
            step = self._store.tenant_step(job.tenant, _RENEW, names, worker, LEASE_SECONDS)
        except NotFound:  # the tenant was erased
            return False
        return bool(step)

    def release(self, job: FitJob, worker: str) -> None:
        """Gives up a worker's lease, so that another worker may take the job."""
        name = _name(job.tenant, job.job, "lease")
        if self._store.get(name) == worker:
            self._store.delete(name)

    def record_progress(self, job: FitJob, progress: Progress) -> bool:
        """Records a fit's progress; True if it should stop: cancelled, or its tenant is gone."""
        return self._report(job, "progress", json.dumps(asdict(progress)))

    def record_stage(self, job: FitJob, stage: str) -> bool:
        """Records a job's stage before its first step; True if it should stop."""
        return self._report(job, "stage", stage)

    def _report(self, job: FitJob, field: str, value: str) -> bool:
        name = _name(job.tenant, job.job)
        state, cancelled = self._store.hmget(name, ["state", "cancel_requested"])
        if state is None or cancelled:
            return True
        try:
            return not self._set(job.tenant, job.job, "hset", field, value)
        except NotFound:
            return True

    def reserve_version(self, job: FitJob, number: int) -> int:
        """The number of the version that this job makes; the first call decides it."""
        name = _name(job.tenant, job.job)
        self._set(job.tenant, job.job, "hsetnx", "version", str(number))
        return int(self._store.hget(name, "version"))

    def reserve_instant(self, job: FitJob, number: int) -> int:
        """The number of the job's instant version: the first one wins."""
        name = _name(job.tenant, job.job)
        self._set(job.tenant, job.job, "hsetnx", "instant_number", str(number))
        return int(self._store.hget(name, "instant_number"))

    def instant_is_live(self, job: FitJob, number: int) -> None:
        """Notes that the job's instant version was published, so that it is not again."""
        self._set(job.tenant, job.job, "hset", "instant_version", str(number))

    def end(self, tenant: str, job_id: str, state: State, **fields: Any) -> None:
        """Ends a job; only the first call counts. Then the tenant's next job is sent."""
        name = _name(tenant, job_id)
        mapping = {k: json.dumps(v) for k, v in fields.items() if v is not None} | {"state": state}
        flat = [part for pair in mapping.items() for part in pair]
        lists = ("open-jobs", "jobs", "ended-jobs", "job", "requests")
        names = (name, *(tenant_redis_key(tenant, part) for part in lists))
        limits = (self.bounds.kept_seconds, self.bounds.ended_jobs)
        with suppress(NotFound):  # the tenant was erased
            self._store.tenant_step(tenant, _END, names, job_id, now(), *limits, *flat)
            self.dispatch(tenant)

    def _set(self, tenant: str, job_id: str, command: str, field: str, value: str) -> bool:
        """Sets a field of a job; False, and nothing changes, if the job was forgotten."""
        what = (command, field, value)
        return bool(self._store.tenant_step(tenant, _SET_FIELD, [_name(tenant, job_id)], *what))


def _name(tenant: str, job_id: str, *parts: str) -> str:
    return tenant_redis_key(tenant, "job", job_id, *parts)


def _leased(job: FitJob) -> tuple[str, str]:
    return _name(job.tenant, job.job), _name(job.tenant, job.job, "lease")


def _digest(idempotency_key: str | None) -> str:
    return hashlib.sha256(idempotency_key.encode()).hexdigest() if idempotency_key else ""


def _read(tenant: str, job_id: str, record: dict[str, str]) -> Job:
    def loaded(name: str) -> Any:
        return json.loads(record[name]) if name in record else None

    return Job(
        id=job_id,
        tenant=tenant,
        spec=JobSpec(**json.loads(record["spec"])),
        state=record["state"],  # type: ignore[arg-type]
        created_at=record["created_at"],
        started_at=record.get("started_at"),
        stage=record.get("stage"),
        finished_at=record.get("finished_at"),
        attempts=int(record.get("attempts", 0)),
        progress=loaded("progress"),
        metrics=loaded("metrics"),
        version=loaded("version"),
        instant_version=loaded("instant_version"),
        published=loaded("published"),
        error=loaded("error"),
        cancel_requested="cancel_requested" in record,
    )
