"""API server, worker, another API server and the stores, each on a host of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.demo.__main__ import PHOTOS
from tests.soak.hosts import SEEN_SECONDS, Hosts, Journey, Network, available
from training.data import read_samples


@pytest.fixture
def journey(tmp_path: Path) -> Iterator[Journey]:
    if not available():
        pytest.skip("needs the right to make network namespaces (ip netns)")
    samples = [s for s in read_samples(PHOTOS) if s.label in ("crab", "lotus")][::8]
    with Network() as network, Hosts(tmp_path, network, servers=2, workers=1).running() as hosts:
        yield Journey(hosts, network, samples)


def test_one_host_uploads_another_fits_a_third_answers_and_one_is_cut_off_and_back(
    journey: Journey,
) -> None:
    uploads, answers = journey.clients
    for version in (1, 2):
        journey.wait(answers, journey.fit(uploads, epochs=1))
        journey.clients[uploads].publish("things", version)
        assert journey.version(answers) == version
    assert journey.publish_and_look(uploads, 1) < SEEN_SECONDS
    assert journey.cut_off(answers, 2) < 10
