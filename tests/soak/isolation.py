"""Many tenants, contradictory adapters, few slots: no answer is of other weights than it names.

Every tenant has adapters of one name for the same photos and classes. While clients ask, versions
are added, published, rolled back and deleted, and the small bank puts them out again and again.
Each answer is held against the file of the version that it names and against scores computed here,
without bank, batches or server.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch

from adapters.bank import export
from adapters.classify import scores
from adapters.clip import FrozenCLIP
from adapters.rmadapter import CLIPAdapters
from service.client import Client
from service.records import Records
from tests.support.api import ADMIN_KEY
from tests.support.random_adapters import add_version, random_adapters
from training.data import ImageSet, Sample, image_set
from training.fit import class_features, default_settings, fit, image_features

CLASSES = ("crab", "lotus")
_PHOTOS = 4
_SCALE = 20.0
_SAME = 1e-4
_CLIENTS = 6
_TEMPLATE = "a photo of a {}."
_ADAPTER = "things"


@dataclass
class Version:
    """What a version must answer."""

    sha256: str
    scores: list[dict[str, float]]  # of each photo


@dataclass
class Tenant:
    """One tenant; `live` is what its one writer last published."""

    id: str
    http: httpx.Client
    versions: dict[int, Version] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    live: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # one writer at a time


class Isolation:
    """`fitted` of the tenants get an adapter that was fitted, each to other labels in turn."""

    def __init__(
        self,
        url: str,
        records: Records,
        clip: FrozenCLIP,
        samples: list[Sample],
        tenants: int,
        fitted: int,
        seed: int,
    ) -> None:
        self._records, self._clip = records, clip
        self._photos = [samples[0], samples[1], samples[24], samples[48]][:_PHOTOS]
        self._pixels = image_set(self._photos, clip.spec).pixels
        self._random = random.Random(seed)
        self._seeds = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
        self._stack = ExitStack()
        self.counts: Counter[str] = Counter()
        self.losses: list[str] = []
        self._tenants = [self._new_tenant(url) for _ in range(tenants)]
        for i, tenant in enumerate(self._tenants):
            self._add(tenant, _fitted(clip, samples, i) if i < fitted else None)
            self._add(tenant)
            self._publish(tenant, self._random.choice(list(tenant.versions)))

    def run(self, seconds: float) -> None:
        stop = threading.Event()
        jobs = [self._ask] * _CLIENTS + [self._change] * 2
        threads = [threading.Thread(target=self._repeat, args=(job, stop)) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        self._stack.close()

    def report(self) -> dict[str, Any]:
        return {"tenants": len(self._tenants), **self.counts, "losses": self.losses}

    def _repeat(self, step: Callable[[Tenant], None], stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                step(self._random.choice(self._tenants))
            except Exception as error:  # any: a thread's end must not pass for a success
                self.losses.append(f"{step.__name__}: {error!r}")

    def _ask(self, tenant: Tenant) -> None:
        """The live version, or a given one that is there or was."""
        number = None
        if self._random.random() < 0.5:
            number = self._random.choice([*tenant.versions, *tenant.gone])
        self._classify(tenant, number)

    def _change(self, tenant: Tenant) -> None:
        with tenant.lock:
            others = [n for n in tenant.versions if n != tenant.live]
            step = self._random.choice(["publish", "publish", "add", "delete", "delete adapter"])
            if step == "add":
                self._publish(tenant, self._add(tenant))
            elif step == "publish" and others:
                self._publish(tenant, self._random.choice(others))
            elif step == "delete" and len(others) > 1:
                self._delete(tenant, self._random.choice(others))
            elif step == "delete adapter" and self._random.random() < 0.2:
                self._delete_all(tenant)

    def _add(self, tenant: Tenant, adapters: CLIPAdapters | None = None) -> int:
        adapters = adapters or random_adapters(self._clip, next(self._seeds))
        number = self._records.adapters.next_number(tenant.id, _ADAPTER)
        truth = self._truth(adapters)
        where = (self._records, self._clip, tenant.id, _ADAPTER, number)
        sha256 = add_version(*where, export(adapters)).sha256
        tenant.versions[number] = Version(sha256, truth)
        self.counts["versions added"] += 1
        return number

    def _publish(self, tenant: Tenant, number: int) -> None:
        path = f"/v1/adapters/{_ADAPTER}/live"
        tenant.http.put(path, json={"version": number}).raise_for_status()
        tenant.live = number
        self.counts["published"] += 1
        answered = self._classify(tenant, None)
        self._expect(answered == number, f"{tenant.id}: {number} is live, {answered} answered")

    def _delete(self, tenant: Tenant, number: int) -> None:
        tenant.gone.add(number)
        path = f"/v1/adapters/{_ADAPTER}/versions/{number}"
        tenant.http.delete(path).raise_for_status()
        del tenant.versions[number]
        self.counts["versions deleted"] += 1
        self._expect(self._classify(tenant, number) is None, f"{tenant.id}: {number} is not gone")

    def _delete_all(self, tenant: Tenant) -> None:
        tenant.gone |= set(tenant.versions)
        tenant.http.delete(f"/v1/adapters/{_ADAPTER}").raise_for_status()
        self.counts["adapters deleted"] += 1
        self._expect(self._classify(tenant, None) is None, f"{tenant.id}: its adapter is not gone")
        before = list(tenant.versions)
        self._publish(tenant, self._add(tenant))
        for number in before:
            del tenant.versions[number]

    def _classify(self, tenant: Tenant, number: int | None) -> int | None:
        """Asks and checks the answer; the version that answered, None where it is gone."""
        known = dict(tenant.versions)
        photo = self._random.randrange(len(self._photos))
        data = {"adapter": _ADAPTER} | ({"version": str(number)} if number else {})
        files = [("files", (str(photo), self._photos[photo].data))]
        while (
            response := tenant.http.post("/classify", data=data, files=files)
        ).status_code == 429:  # full: said nothing of what is live
            self.counts["refused with 429"] += 1
            time.sleep(float(response.headers["retry-after"]))
        if response.status_code in (404, 409):
            allowed = number is None or number in tenant.gone
            self._expect(allowed, f"{tenant.id} {number}: {response.text}")
            self.counts[f"refused with {response.status_code}"] += 1
            return None
        response.raise_for_status()
        answer = response.json()
        self.counts["answers"] += 1
        self.counts[f"from {response.headers['x-adapter-cache']}"] += 1
        named = answer["version"]
        truth = (known | tenant.versions).get(named)
        self._expect(number in (None, named), f"{tenant.id}: asked {number}, {named} answered")
        if truth is None:
            self._expect(False, f"{tenant.id}: version {named} is none of its own")
            return int(named)
        self._expect(answer["artifact_sha256"] == truth.sha256, f"{tenant.id} {named}: its file")
        predictions = answer["results"][0]["predictions"]
        worst = max(abs(p["score"] - truth.scores[photo][p["label"]]) for p in predictions)
        self._expect(worst < _SAME, f"{tenant.id} {named}: scores are off by {worst}")
        return int(named)

    def _truth(self, adapters: CLIPAdapters) -> list[dict[str, float]]:
        images = image_features(self._clip, adapters, self._pixels)
        texts = class_features(self._clip, adapters, CLASSES, _TEMPLATE)
        ranking = scores(images, texts, _SCALE).tolist()
        return [dict(zip(CLASSES, row, strict=True)) for row in ranking]

    def _new_tenant(self, url: str) -> Tenant:
        with Client(url, ADMIN_KEY) as admin:
            made = admin.call("POST", "/v1/tenants", json={"name": "a tenant"})
        headers = {"Authorization": f"Bearer {made['api_key']}"}
        http = httpx.Client(base_url=url, headers=headers, timeout=60)
        return Tenant(made["tenant"], self._stack.enter_context(http))

    def _expect(self, fine: bool, loss: str) -> None:
        if not fine:
            self.losses.append(loss)


def _fitted(clip: FrozenCLIP, samples: list[Sample], turn: int) -> CLIPAdapters:
    """Fitted to right labels and to swapped ones in turn."""
    photos = image_set([*samples[:6], *samples[96:102]], clip.spec)
    labels = torch.tensor([0] * 6 + [1] * 6)
    swapped = ImageSet(photos.pixels, labels if turn % 2 else 1 - labels, CLASSES)
    settings = default_settings(clip, epochs=5, min_steps=1, seed=turn + 1)
    return fit(clip, swapped, settings).requires_grad_(False)
