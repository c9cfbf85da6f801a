"""`kill -9` at random moments, under uploads, fits, roll-backs and classification.

A ledger holds what the service has acknowledged; whatever of it is missing afterwards, ended twice
or answers differently is a loss.
"""

import hashlib
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from adapters.clip import FrozenCLIP
from service.client import ClientError
from tests.support.api import upload
from tests.support.cluster import Cluster, Process
from tests.support.random_adapters import add_version
from tests.support.waiting import wait_for
from training.data import Sample

TAKEN_UP_SECONDS = 15.0  # from a worker's death, where another one lives, to the next attempt
KINDS = ("worker", "server", "redis", "all")
_SAME = 1e-4  # scores before and after: a batch's other rows may change the last digits
_AGAIN = (0, 429, 502, 503)  # not reached, or told to come again


@dataclass
class Ledger:
    """What was acknowledged, and what was found wanting."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    pictures: dict[str, str] = field(default_factory=dict)  # SHA-256 → label
    jobs: dict[str, str] = field(default_factory=dict)  # job → adapter
    live: int = 1
    publishes: int = 0
    answers: int = 0
    refused: Counter[int] = field(default_factory=Counter)  # by status; 0: not reached
    taken_up: list[float] = field(default_factory=list)  # seconds
    losses: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "kills": dict(self.kills),
            "pictures accepted": len(self.pictures),
            "jobs accepted": len(self.jobs),
            "publishes accepted": self.publishes,
            "answers compared": self.answers,
            "refused meanwhile, by status": {str(k): n for k, n in sorted(self.refused.items())},
            "jobs taken up by another worker": len(self.taken_up),
            "slowest of them, seconds": round(max(self.taken_up, default=0.0), 1),
            "losses": self.losses,
        }


class Kills:
    """Rounds of load and kills on a cluster of two workers and a server at least."""

    def __init__(
        self, cluster: Cluster, clip: FrozenCLIP, samples: list[Sample], seed: int
    ) -> None:
        self._cluster, self._samples = cluster, samples
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self._records = cluster.records
        self._tenant, self._client = cluster.new_tenant()
        self._fitted = upload(self._client, samples[:4] + samples[24:28])
        self._filled = self._client.create_dataset("filled")
        for number in (1, 2):
            add_version(self._records, clip, self._tenant, "pinned", number)
        self._client.call("PUT", "/v1/adapters/pinned/live", json={"version": 1})
        self._truth = {number: self._scores(number)[1] for number in (1, 2)}

    def round(self, kind: str) -> None:
        """A job under load, a kill in the middle of it, and everything there afterwards."""
        ledger, adapter = self.ledger, f"round-{self.ledger.rounds}"
        ledger.rounds += 1
        with self._load():
            job = self._start_job(adapter)
            wait_for(lambda: self._job(job)["progress"] is not None)
            time.sleep(self._random.uniform(0.0, 2.0))
            self._kill(kind, job)
            wait_for(lambda: self._job(job)["finished_at"], 180.0)
        self._check_job(job, adapter)
        self._check_live()

    def check_all(self) -> None:
        """The whole ledger against the records and the blobs."""
        for job, adapter in self.ledger.jobs.items():
            self._check_job(job, adapter)
        stored = {
            hashlib.sha256(sample.data).hexdigest(): sample.label
            for sample in self._records.datasets.samples(self._tenant, self._filled)
        }
        for digest, label in self.ledger.pictures.items():
            self._expect(stored.get(digest) == label, f"picture {digest} of {label} is lost")
        labels = self._records.datasets.get(self._tenant, self._filled).labels
        self._expect(labels == Counter(stored.values()), f"counted {labels}")

    def _kill(self, kind: str, job: str) -> None:
        ledger, cluster = self.ledger, self._cluster
        ledger.kills[kind] += 1
        holder = self._holder(job)
        before = self._attempts(job)
        if kind == "redis":
            cluster.redis.kill()
            time.sleep(self._random.uniform(0.0, 3.0))
            cluster.redis.start()
            return
        victims: dict[str, list[Process]] = {
            "worker": [holder] if holder else [],
            "server": list(cluster.servers),
            "all": [*cluster.servers, *cluster.workers],
        }
        if kind == "all":
            cluster.redis.kill()
        for victim in victims[kind]:
            victim.kill()
        killed = time.monotonic()
        if kind == "all":
            cluster.redis.start()
        for victim in victims[kind]:
            victim.start()
        if kind == "worker" and victims[kind]:
            wait_for(lambda: self._attempts(job) > before or self._ended(job), 60.0)
            ledger.taken_up.append(time.monotonic() - killed)
            late = ledger.taken_up[-1] > TAKEN_UP_SECONDS
            self._expect(not late, f"{job} taken up after {ledger.taken_up[-1]:.1f} s")
        for victim in victims[kind]:
            victim.wait()  # type: ignore[attr-defined]

    def _holder(self, job: str) -> Process | None:
        """The worker that has the job: its lease names host:pid:random."""
        lease = self._records.store.get(f"rmadapter:tenant:{self._tenant}:job:{job}:lease")
        pid = int(lease.split(":")[1]) if lease else None
        return next((w for w in self._cluster.workers if w.pid == pid), None)

    def _attempts(self, job: str) -> int:
        return self._records.jobs.get(self._tenant, job).attempts

    def _ended(self, job: str) -> bool:
        return self._records.jobs.get(self._tenant, job).ended

    # the load

    @contextmanager
    def _load(self) -> Iterator[None]:
        stop = threading.Event()
        steps = (self._upload_one, self._publish_one, self._classify_one)
        threads = [threading.Thread(target=self._repeat, args=(step, stop)) for step in steps]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _repeat(self, step: Callable[[], None], stop: threading.Event) -> None:
        while not stop.wait(0.05):
            try:
                step()
            except ClientError as error:
                self.ledger.refused[error.status] += 1
                self._expect(error.status in _AGAIN, f"{step.__name__}: {error}")
                stop.wait(0.2)

    def _upload_one(self) -> None:
        sample = self._samples[secrets.randbelow(len(self._samples))]
        data = sample.data + secrets.token_bytes(16)  # another file with the same picture
        self._client.call(
            "POST",
            f"/v1/datasets/{self._filled}/images",
            data={"label": sample.label},
            files=[("files", (sample.name, data))],
        )
        self.ledger.pictures[hashlib.sha256(data).hexdigest()] = sample.label

    def _publish_one(self) -> None:
        """Again until it is acknowledged, so that what is live is never in doubt."""
        number = 3 - self.ledger.live
        self._until_acknowledged(
            lambda: self._client.call("PUT", "/v1/adapters/pinned/live", json={"version": number})
        )
        self.ledger.live = number
        self.ledger.publishes += 1
        time.sleep(0.3)

    def _classify_one(self) -> None:
        number, scores = self._scores()
        self._expect(_near(scores, self._truth[number]), f"version {number} answered {scores}")
        self.ledger.answers += 1

    def _scores(self, version: int | None = None) -> tuple[int, dict[str, float]]:
        photo = self._samples[0]
        answer = self._client.classify([(photo.name, photo.data)], None, "pinned", version=version)
        predictions = answer["results"][0]["predictions"]
        return answer["version"], {p["label"]: p["score"] for p in predictions}

    def _start_job(self, adapter: str) -> str:
        """Told again until it is acknowledged: the key makes it one job."""
        body = {"dataset": self._fitted, "adapter": adapter, "params": {"epochs": 8}}
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        made = self._until_acknowledged(
            lambda: self._client.call("POST", "/v1/jobs", json=body, headers=headers)
        )
        self.ledger.jobs[made["job"]] = adapter
        return str(made["job"])

    def _job(self, job: str) -> Any:
        return self._until_acknowledged(lambda: self._client.call("GET", f"/v1/jobs/{job}"))

    def _until_acknowledged(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except ClientError as error:
                self.ledger.refused[error.status] += 1
                if error.status not in _AGAIN:
                    raise
                time.sleep(0.2)

    # the checks

    def _check_job(self, job: str, adapter: str) -> None:
        """Ended well, once: a full version after an instant one; one of them is live, and its file
        is what it says."""
        ended = self._job(job)
        versions = self._client.call("GET", f"/v1/adapters/{adapter}")
        numbers = [version["version"] for version in versions["versions"]]
        made = [ended["version"], ended["instant_version"]]
        fine = ended["state"] == "succeeded" and numbers == made
        fine = fine and versions["live"] == made[0 if ended["published"] else 1]
        self._expect(fine, f"{job}: {ended['state']} {ended['error']}, versions {numbers}")
        photo = self._samples[0]
        answer = self._client.classify([(photo.name, photo.data)], None, adapter)
        (sha,) = [v["artifact_sha256"] for v in versions["versions"] if v["live"]]
        self._expect(answer["artifact_sha256"] == sha, f"{adapter} answered with another file")

    def _check_live(self) -> None:
        live = self._client.call("GET", "/v1/adapters/pinned")["live"]
        self._expect(live == self.ledger.live, f"version {self.ledger.live} was live, now {live}")

    def _expect(self, fine: bool, loss: str) -> None:
        if not fine:
            self.ledger.losses.append(loss)


def _near(scores: dict[str, float], truth: dict[str, float]) -> bool:
    return all(abs(scores[label] - truth[label]) < _SAME for label in truth)
