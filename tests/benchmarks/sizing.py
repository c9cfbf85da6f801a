"""What one of everything costs, counted: the figures of docs/sizing.md.

python -m tests.benchmarks.sizing

Counts and sizes, which other work on the machine does not change; for speeds see `make bench`.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters.artifact import Artifact, encode_artifact
from adapters.bank import Bank
from adapters.clip import FrozenCLIP, load_clip
from service.client import Client
from service.demo.__main__ import PHOTOS
from service.records import Records
from service.records.blobs import Blobs
from service.records.store import RecordStore
from tests.benchmarks import place
from tests.support.api import Api, start_api
from tests.support.random_adapters import add_version, manifest_of, random_weights
from training.data import Sample, read_samples
from training.fit import default_settings

_MANY = 2000
_TIMES = 20


def sizes(name: str) -> Iterator[tuple[str, str]]:
    """Of an adapter, in its file and in the bank."""
    clip = load_clip(name)
    adapter = default_settings(clip).adapter
    place_of = (adapter.image_first, adapter.text_first)
    manifest = manifest_of(clip, classes=("a", "b"))
    file = len(encode_artifact(Artifact(manifest, random_weights(clip, 1))))
    yield f"adapter's file, {name}", f"{file / 2**20:.2f} MiB"
    for rank in sorted({adapter.rank, 32}):
        slot = Bank.slot_bytes(clip.image, clip.text, rank, *place_of)
        yield f"slot of the bank, {name}, rank {rank}", f"{slot / 2**20:.2f} MiB"


def memory(records: Records, clip: FrozenCLIP) -> Iterator[tuple[str, str]]:
    """Redis's bytes for one more of each record."""
    store, tenant = records.store, records.tenants.create("many")[0].id
    dataset = records.datasets.create(tenant, "many").id

    def each(make: Callable[[int], object]) -> str:
        before = int(store.info("memory")["used_memory"])
        for i in range(_MANY):
            make(i)
        return f"{(int(store.info('memory')['used_memory']) - before) / _MANY:,.0f} bytes"

    yield "Redis: a tenant with a key", each(lambda i: records.tenants.create(f"t{i}"))
    yield "Redis: a data set", each(lambda i: records.datasets.create(tenant, f"d{i}"))
    sample = Sample("a class", "IMG_0001.jpg", b"")
    yield (
        "Redis: a picture",
        each(
            lambda i: records.datasets.add(
                tenant, dataset, Sample(sample.label, sample.name, str(i).encode())
            )
        ),
    )
    weights = random_weights(clip, 1)
    yield (
        "Redis: an adapter with a version, 2 classes, no figures",
        each(lambda i: add_version(records, clip, tenant, f"a{i}", 1, weights)),
    )


def commands(store: RecordStore) -> int:
    """Commands that Redis has run, those of scripts left out."""
    stats = store.info("commandstats")
    own = ("cmdstat_info", "cmdstat_config", "cmdstat_ping", "cmdstat_blpop")
    return sum(stat["calls"] for name, stat in stats.items() if not name.startswith(own))


@contextmanager
def counted() -> Iterator[list[str]]:
    """Calls of any blob store that is opened within; each is one request of S3."""
    calls: list[str] = []
    originals = {name: getattr(Blobs, name) for name in ("put", "create", "get", "delete")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return originals[name](*arguments)

        return call

    for name in originals:
        setattr(Blobs, name, counting(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(Blobs, name, original)


def requests(
    api: Api, clip: FrozenCLIP, samples: list[Sample], calls: list[str]
) -> Iterator[tuple[str, str]]:
    """Redis's and S3's work for one request."""
    records, client = api.components.records, api.new_tenant()
    for number in (1, 2):
        add_version(records, clip, client.tenant, "a", number)
    records.adapters.publish(client.tenant, "a", 1)
    photo = [(samples[0].name, samples[0].data)]

    def cost(do: Callable[[], object], times: int = _TIMES) -> str:
        counts, stored = [], len(calls)
        for _ in range(times):
            before = commands(records.store)
            do()
            counts.append(commands(records.store) - before)
        made = (len(calls) - stored) / times
        return f"{statistics.median(counts):g} commands, {made:g} requests to the blob store"

    yield "first classify on a version", cost(lambda: client.classify(photo, None, "a"), 1)
    yield "classify", cost(lambda: client.classify(photo, None, "a"))
    yield "publish", cost(lambda: client.publish("a", 2))
    dataset = client.create_dataset("d")
    left = iter(samples)
    yield "upload of one picture", cost(lambda: _upload(client, dataset, next(left)))


def _upload(client: Client, dataset: str, sample: Sample) -> None:
    files = [("files", (sample.name, sample.data))]
    path = f"/v1/datasets/{dataset}/images"
    client.call("POST", path, data={"label": sample.label}, files=files)


def main() -> None:
    table = Table("what", "costs", title="counted on this machine")
    for name in ("bundled", "ViT-B-16"):
        for row in sizes(name):
            table.add_row(*row)
    clip, samples = load_clip(), list(read_samples(PHOTOS))
    with place.settings() as settings, counted() as calls:
        many = {"backend": "torch", "max_tenant_datasets": 10 * _MANY}
        plain = settings.model_copy(update=many)
        for api in start_api(plain, clip):
            for row in requests(api, clip, samples, calls):
                table.add_row(*row)
            for row in memory(api.components.records, clip):
                table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
