"""The examples of docs/examples, run as they stand against a server with a worker."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from service.demo.__main__ import PHOTOS
from tests.support.cluster import Cluster
from tests.support.paths import ROOT
from tests.support.photos import photo_folder

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = photo_folder(tmp_path_factory.mktemp("photos"), ("crab", "lotus"), 2)
    photo = sorted((PHOTOS / "lotus").iterdir())[5]
    with Cluster(tmp_path_factory.mktemp("cluster"), servers=1, workers=1).running() as cluster:
        _, client = cluster.new_tenant()
        key = client.http.headers["authorization"].split()[1]
        given = {"KEY": key, "FOLDER": str(folder), "PHOTO": str(photo)}
        yield os.environ | given | {"URL": cluster.servers[0].url}


@pytest.mark.parametrize(("program", "file"), [("bash", "classify.sh"), ("node", "classify.mjs")])
def test_an_example_ends_with_an_answer(
    environment: dict[str, str], program: str, file: str
) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    done = subprocess.run(
        [program, EXAMPLES / file], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert '"label":"lotus"' in done.stdout.replace(" ", "")
