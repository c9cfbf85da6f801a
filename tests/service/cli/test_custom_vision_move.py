"""A whole project's move: downloaded from its Training API, imported, fitted, asked by its app."""

import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.cognitiveservices.vision.customvision.prediction import CustomVisionPredictionClient
from azure.cognitiveservices.vision.customvision.training import CustomVisionTrainingClient
from msrest.authentication import ApiKeyCredentials

from service.client import Client
from service.demo.__main__ import PHOTOS
from tests.support.api import Api, run_job

PROJECT = str(uuid.UUID(int=7))  # the same in each process: test ids have it
KEY = "a training key"
TAGS = {name: str(uuid.uuid4()) for name in ("crab", "lotus", "Negative")}
TAGGED = rf"/customvision/v3\.(3|4-preview)/training/projects/{PROJECT}/images/tagged"
FOLDERS = {"crab": "crab", "lotus": "lotus", "Negative": "cup"}


@dataclass
class Azure:
    """A stand-in for the Training API of one project, and what was asked of it."""

    url: str = ""
    images: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    keys_at_photos: list[str | None] = field(default_factory=list)


@pytest.fixture(scope="module")
def azure() -> Iterator[Azure]:
    found = Azure()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            found.asked.append(url.path)
            if url.path.startswith("/blobs/"):
                found.keys_at_photos.append(self.headers["Training-Key"])
                self._send(200, found.files[url.path])
            elif self.headers["Training-Key"] != KEY:
                self._send(401, b'{"code":"401","message":"denied"}')
            elif re.fullmatch(TAGGED, url.path, re.IGNORECASE):
                asked = parse_qs(url.query)
                skip, take = int(asked["skip"][0]), min(int(asked["take"][0]), 10)
                self._send(200, json.dumps(found.images[skip : skip + take]).encode())
            else:
                self._send(404, b'{"code":"NotFoundProject","message":"Invalid project"}')

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    for tag, folder in FOLDERS.items():
        for photo in sorted((PHOTOS / folder).iterdir())[:8]:
            image, path = str(uuid.uuid4()), f"/blobs/{uuid.uuid4()}"
            found.files[path] = photo.read_bytes()
            found.images.append(
                {
                    "id": image,
                    "created": "2024-05-04T10:00:00.000Z",
                    "width": 200,
                    "height": 200,
                    "originalImageUri": f"{found.url}{path}",
                    "tags": [
                        {"tagId": TAGS[tag], "tagName": tag, "created": "2024-05-04T10:00:00Z"}
                    ],
                }
            )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def arguments(azure: Azure, folder: Path, project: str = PROJECT) -> tuple[object, ...]:
    return "import", "custom-vision", folder, "--endpoint", azure.url, "--project", project


def test_the_stand_in_answers_as_microsofts_training_client_reads_it(azure: Azure) -> None:
    trainer = CustomVisionTrainingClient(
        azure.url, ApiKeyCredentials(in_headers={"Training-key": KEY})
    )
    images = trainer.get_tagged_images(PROJECT, take=5)
    assert [image.id for image in images] == [image["id"] for image in azure.images[:5]]
    assert images[0].original_image_uri == azure.images[0]["originalImageUri"]
    assert images[0].tags[0].tag_id == TAGS["crab"]


def test_a_project_moves_with_its_photos_tags_ids_and_app(
    run, worker: None, api: Api, client: Client, azure: Azure, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("CUSTOM_VISION_TRAINING_KEY", KEY)
    done = run(*arguments(azure, tmp_path / "export"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accepted"] == len(azure.images)
    assert azure.keys_at_photos == [None] * len(azure.images)
    dataset = json.loads(done.stdout)["dataset"]
    assert client.call("GET", f"/v1/datasets/{dataset}")["tags"] == TAGS

    job = run_job(client, dataset, "Iteration1", params={"epochs": 15})
    assert job["state"] == "succeeded", job["error"]
    made = json.loads(run("keys", "create", "--scope", "classify").stdout)
    predictor = CustomVisionPredictionClient(
        api.url, ApiKeyCredentials(in_headers={"Prediction-key": made["api_key"]})
    )
    for tag, folder in FOLDERS.items():
        photo = sorted((PHOTOS / folder).iterdir())[20]
        with photo.open("rb") as stream:
            answer = predictor.classify_image(PROJECT, "Iteration1", stream)
        assert answer.project == PROJECT
        assert {p.tag_name: p.tag_id for p in answer.predictions} == TAGS
        best = answer.predictions[0]
        assert best.tag_name == tag
        assert best.tag_type == ("Negative" if tag == "Negative" else "Regular")


def test_a_download_that_broke_off_goes_on(run, azure: Azure, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUSTOM_VISION_TRAINING_KEY", KEY)
    run(*arguments(azure, tmp_path), "--dry-run")
    lost = tmp_path / f"{azure.images[3]['id']}.jpg"
    lost.rename(lost.with_suffix(".part"))
    azure.asked.clear()
    assert run(*arguments(azure, tmp_path), "--dry-run").exit_code == 0
    assert len([path for path in azure.asked if path.startswith("/blobs/")]) == 1
    assert lost.read_bytes() in azure.files.values()


@pytest.mark.parametrize(
    ("key", "project", "said"),
    [
        ("a wrong key", PROJECT, "401"),
        (KEY, "another", "404"),
        ("", PROJECT, "CUSTOM_VISION_TRAINING_KEY"),
    ],
)
def test_what_azure_refuses_is_said(
    run, azure: Azure, tmp_path: Path, monkeypatch, key: str, project: str, said: str
) -> None:
    monkeypatch.setenv("CUSTOM_VISION_TRAINING_KEY", key)
    done = run(*arguments(azure, tmp_path, project))
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output


def test_an_endpoint_that_is_not_there_is_said(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUSTOM_VISION_TRAINING_KEY", KEY)
    done = run(*arguments(Azure("http://127.0.0.1:1"), tmp_path))
    assert done.exit_code == 1
    assert "cannot be reached" in done.output
