"""What was acknowledged survives `kill -9`; `make soak` does the same a hundred times."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.clip import FrozenCLIP
from tests.soak.kills import Kills
from tests.support.cluster import Cluster
from training.data import Sample


@pytest.fixture
def kills(tmp_path: Path, clip: FrozenCLIP, samples: list[Sample]) -> Iterator[Kills]:
    with Cluster(tmp_path, servers=1, workers=1).running() as cluster:
        yield Kills(cluster, clip, samples, seed=1)


def test_nothing_acknowledged_is_lost_when_processes_are_killed(kills: Kills) -> None:
    """Uploads, publishes, fits and answers go on while Redis, then everything, is killed."""
    for kind in ("redis", "all"):
        kills.round(kind)
    kills.check_all()
    ledger = kills.ledger
    assert ledger.losses == []
    assert ledger.pictures and ledger.publishes and ledger.answers
    assert len(ledger.jobs) == 2
