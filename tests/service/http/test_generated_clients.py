"""Clients that are generated from the OpenAPI document send right calls."""

import importlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.api import Api
from tests.support.paths import ROOT
from tests.support.waiting import wait_for
from training.data import Sample

DOCUMENT = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package that openapi-python-client writes."""
    folder = tmp_path_factory.mktemp("generated")
    command = ["-m", "openapi_python_client", "generate", "--path", str(DOCUMENT)]
    command += ["--output-path", str(folder / "generated_client"), "--meta", "none"]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "Unable to" not in said and "unsupported" not in said.lower(), said
    sys.path.insert(0, str(folder))
    return importlib.import_module("generated_client")


def test_a_generated_python_client_uploads_fits_and_classifies(
    api: Api, worker: None, generated: ModuleType, samples: list[Sample]
) -> None:
    def part(name: str) -> ModuleType:
        return importlib.import_module(f"generated_client.{name}")

    models, file_type = part("models"), part("types").File
    token = api.new_tenant().http.headers["authorization"].split()[1]
    with generated.AuthenticatedClient(api.url, token=token) as client:
        made = part("api.data_sets.create_dataset").sync(
            client=client, body=models.Named("flowers")
        )
        for label in ("crab", "cup"):
            photos = [
                file_type(io.BytesIO(sample.data), file_name=sample.name, mime_type="image/jpeg")
                for sample in samples
                if sample.label == label
            ][:4]
            body = models.BodyUploadImages(label=label, files=photos)
            upload = part("api.data_sets.upload_images")
            stored = upload.sync(made.dataset, client=client, body=body)
            assert stored.accepted == 4, stored
        wanted = models.JobIn(made.dataset, "things", params=models.FitParams(epochs=2))
        job = part("api.jobs.create_job").sync(client=client, body=wanted)
        get = part("api.jobs.get_job")
        wait_for(lambda: get.sync(job.job, client=client).finished_at)
        ended = get.sync(job.job, client=client)
        assert ended.state == "succeeded" and ended.instant_version == 1
        photo = file_type(io.BytesIO(samples[0].data), file_name="a.jpg", mime_type="image/jpeg")
        question = models.ClassifyFilesBody(
            files=[photo], classes=["crab", "cup"], adapter="things"
        )
        answer = part("api.classify.classify").sync(client=client, body=question)
        assert answer.version == (ended.version if ended.published else 1)
        assert {p.label for p in answer.results[0].predictions} == {"crab", "cup"}
        listed = part("api.jobs.list_jobs").sync(client=client)
        assert [one.job for one in listed.items] == [job.job]


def test_openapi_typescript_writes_types_for_every_call(tmp_path: Path) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not here")
    tool = [npx, "--yes", "openapi-typescript@7"]
    if subprocess.run([*tool, "--version"], capture_output=True, timeout=200).returncode:
        pytest.skip("npx cannot fetch openapi-typescript here")
    made = tmp_path / "api.d.ts"
    done = subprocess.run(
        [*tool, str(DOCUMENT), "--output", str(made)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    text = made.read_text()
    assert '"/v1/datasets/{dataset}/images"' in text and "upload_images" in text
