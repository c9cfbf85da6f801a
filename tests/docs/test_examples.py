"""The examples of README.md and docs/examples, run as they stand on a server with a worker."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.demo.__main__ import PHOTOS
from tests.support.client_alone import client_package
from tests.support.cluster import Cluster
from tests.support.paths import ROOT
from tests.support.photos import photo_folder

README = ROOT / "README.md"
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


def block(page: Path, language: str, number: int = 0) -> str:
    """A fenced block of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)[number]


def readme_block(language: str, number: int = 0) -> str:
    return block(README, language, number)


@pytest.fixture(scope="module")
def flowers(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as README.md has it: photo.jpg in it, and the tenant has an adapter `flowers`."""
    folder = tmp_path_factory.mktemp("app")
    shutil.copy(environment["PHOTO"], folder / "photo.jpg")
    with Client(environment["URL"], environment["KEY"]) as client:
        dataset = client.create_dataset("flowers")
        for label in ("crab", "lotus"):
            files = sorted((Path(environment["FOLDER"]) / label).iterdir())
            assert all(answer["accepted"] for answer in client.upload_class(dataset, label, files))
        job = client.create_job(dataset, "flowers")
        assert [*client.job_events(job["job"])][-1]["state"] == "succeeded"
    return folder


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_of_the_readme_is_answered_with_its_json(
    environment: dict[str, str], flowers: Path
) -> None:
    (line,) = re.findall(r"^    (curl .*/v1/classify.*(?:\\\n.*)+)$", README.read_text(), re.M)
    line = line.replace("http://localhost:8000", environment["URL"])
    answer = json.loads(run(["bash", "-c", line], flowers, environment))
    shown = json.loads(readme_block("json"))
    assert answer.keys() == shown.keys()
    (result,), (told,) = answer["results"], shown["results"]
    assert result.keys() == told.keys()
    assert {p["label"] for p in result["predictions"]} == {p["label"] for p in told["predictions"]}


def test_the_python_of_the_readme_prints_a_label(
    environment: dict[str, str], flowers: Path
) -> None:
    code = readme_block("python").replace("http://localhost:8000", environment["URL"])
    assert run([sys.executable, "-W", "ignore", "-c", code], flowers, environment) == "lotus\n"


@pytest.mark.parametrize(("number", "ends"), [(0, "lotus\n"), (1, "succeeded\n")])
def test_the_clients_of_the_api_page_work_without_the_rest_of_the_project(
    environment: dict[str, str], flowers: Path, tmp_path: Path, number: int, ends: str
) -> None:
    code = block(ROOT / "docs" / "api.md", "python", number)
    code = code.replace("http://localhost:8000", environment["URL"])
    package = client_package(tmp_path)
    (flowers / "app.py").write_text(code)
    alone = environment | {"PYTHONPATH": str(package.parent)}
    assert run([sys.executable, "app.py"], flowers, alone).endswith(ends)


def test_the_refusal_of_the_readme_is_the_service_s_own(
    environment: dict[str, str], flowers: Path
) -> None:
    files = {"files": (flowers / "photo.jpg").read_bytes()}
    headers = {"Authorization": f"Bearer {environment['KEY']}"}
    answer = httpx.post(f"{environment['URL']}/v1/classify", headers=headers, files=files)
    assert answer.json() == json.loads(readme_block("json", 1))
