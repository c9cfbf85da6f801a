"""`make soak`: kills, isolation, load and fuzzing, as much as asked, and a report of what was lost.

python -m tests.soak --rounds 100 --minutes 30        the full run
python -m tests.soak --only kills --rounds 5          a part of it
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adapters.bank import Bank
from adapters.clip import load_clip
from service.demo.__main__ import PHOTOS
from tests.soak import fuzz_readers
from tests.soak.hosts import run as run_hosts
from tests.soak.isolation import Isolation
from tests.soak.kills import KINDS, Kills
from tests.soak.overload import Overload
from tests.support.cluster import Cluster
from training.data import read_samples
from training.fit import default_settings

REPORT = Path("soak.json")


def kills(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each kind of kill in turn by lot, `rounds` in all."""
    kinds = random.Random(options.seed)
    with Cluster(folder, servers=1, workers=2).running() as cluster:
        run = Kills(cluster, load_clip(), list(read_samples(PHOTOS)), options.seed)
        for i in range(options.rounds):
            kind = kinds.choice(KINDS)
            started = time.monotonic()
            run.round(kind)
            losses = len(run.ledger.losses)
            print(f"round {i + 1}, {kind}: {time.monotonic() - started:.0f} s, losses {losses}")
            sys.stdout.flush()
        run.check_all()
    return run.ledger.report()


def isolation(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fifty tenants on a bank of four slots and eight places in host memory, for `minutes`."""
    clip, samples = load_clip(), list(read_samples(PHOTOS))
    adapter = default_settings(clip).adapter
    slot = Bank.slot_bytes(clip.image, clip.text, 32, adapter.image_first, adapter.text_first)
    few = {"bank_bytes": 4 * slot, "host_adapters": 8}
    with Cluster(folder, servers=1, workers=0, **few).running() as cluster:
        where = (cluster.servers[0].url, cluster.records, clip, samples)
        run = Isolation(*where, tenants=50, fitted=5, seed=options.seed)
        run.run(options.minutes * 60)
        run.close()
    return run.report()


def overload(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One server at its capacity for `minutes`, then half a minute of ten times as much."""
    with Cluster(folder, servers=1, workers=0).running() as cluster:
        server = cluster.servers[0]
        _, client = cluster.new_tenant()
        run = Overload(server.url, server.pid, client, list(read_samples(PHOTOS)))
        return run.run(options.minutes * 60)


def hosts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Servers, workers and stores on hosts of their own, where namespaces may be made."""
    samples = [s for s in read_samples(PHOTOS) if s.label in ("crab", "lotus")][::4]
    return run_hosts(folder, samples)


def fuzz(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What reads pictures, adapter files and archives, for `minutes` in all."""
    return fuzz_readers.run(options.minutes * 60)


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "kills": kills,
    "isolation": isolation,
    "overload": overload,
    "hosts": hosts,
    "fuzz": fuzz,
}


def main() -> int:
    options = _options()
    torch.set_num_threads(1)  # there are more processes than cores, and threads wait spinning
    report: dict[str, Any] = {"seed": options.seed}
    for name in options.only:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            started = time.monotonic()
            report[name] = PARTS[name](options, Path(folder))
            report[name]["seconds"] = round(time.monotonic() - started)
            options.report.write_text(json.dumps(report, indent=2) + "\n")
    losses = [loss for name in options.only for loss in report[name]["losses"]]
    print(json.dumps(report, indent=2))
    bounds = [bound for name in options.only for bound in report[name].get("bounds not kept", [])]
    print(f"losses: {len(losses)}, bounds of time not kept: {len(bounds)}")
    return 1 if losses else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of isolation, of load, of fuzzing"
    )
    parser.add_argument("--rounds", type=int, default=100, help="of kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS)
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
