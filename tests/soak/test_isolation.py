"""Promise 1, attribution: an answer comes from the weights that it names, whatever happens."""

from pathlib import Path

import pytest

from adapters.clip import FrozenCLIP
from service.settings import Settings
from tests.soak.isolation import Isolation
from tests.support.api import start_api
from training.data import Sample


@pytest.fixture
def isolation(settings: Settings, clip: FrozenCLIP, samples: list[Sample], tmp_path: Path):
    """Four tenants on a bank of two slots, one of them with a fitted adapter."""
    few = {"bank_bytes": 1, "host_adapters": 4, "blob_url": tmp_path.as_uri()}
    for api in start_api(settings.model_copy(update=few), clip):
        made = Isolation(
            api.url, api.components.records, clip, samples, tenants=4, fitted=1, seed=1
        )
        yield made
        made.close()


def test_no_answer_comes_from_weights_other_than_those_it_names(isolation: Isolation) -> None:
    """Under load, publishes, roll-backs, evictions and deletes; `make soak` goes on for longer."""
    isolation.run(8.0)
    assert isolation.losses == []
    assert isolation.counts["answers"] > 20
    assert isolation.counts["published"] > isolation.counts["versions added"] / 2
    assert {name for name in isolation.counts if name.startswith("from ")} == {
        "from device",
        "from host",
        "from blob",
    }
