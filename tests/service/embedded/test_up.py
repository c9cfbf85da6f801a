"""`rmadapter up` and the command line, as their users run them: real processes, a fresh folder."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.demo.__main__ import PHOTOS
from tests.support.photos import photo_folder
from tests.support.waiting import wait_for


class Up:
    """One `rmadapter up` on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "service", "up", "--port", "0", "--data-dir", str(folder)]
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
        wait_for(lambda: "lie in" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        self.url = self.log.read_text().split("is up: ")[1].split()[0]

    @property
    def key(self) -> str:
        return (self.folder / "default.key").read_text().strip()

    def cli(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {
            "RMADAPTER_URL": self.url,
            "RMADAPTER_DATA_DIR": str(self.folder),
            "COLUMNS": "160",
        }
        command = [sys.executable, "-m", "service", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


def children_of(folder: Path) -> list[str]:
    """Processes that name a folder in their command or work for a service there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_text() + (process / "environ").read_text()
        except OSError:  # ended meanwhile, or another user's
            continue
        if str(folder) in text and int(process.name) != os.getpid():
            found.append(text.replace("\0", " ")[:100])
    return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up") / "data")
    yield running
    assert running.stop() == 0
    assert children_of(running.folder) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of each of two classes, and a file that is none."""
    root = photo_folder(tmp_path_factory.mktemp("photos") / "things", ("crab", "lotus"), 6)
    (root / "crab" / "notes.txt").write_text("no photo")
    return root


def test_keys_are_for_their_owners_eyes(up: Up) -> None:
    for name in ("admin.key", "default.key"):
        assert stat.S_IMODE((up.folder / name).stat().st_mode) == 0o600
        assert (up.folder / name).read_text().strip() not in up.log.read_text()
        assert str(up.folder / name) in up.log.read_text()


def test_a_second_up_on_the_same_folder_is_refused(up: Up) -> None:
    command = [sys.executable, "-m", "service", "up", "--port", "0", "--data-dir", str(up.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "another `rmadapter up` runs on" in done.stderr.replace("\n", " ")


def test_a_setting_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    options = ["--backend", "abacus", "--data-dir", str(tmp_path)]
    command = [sys.executable, "-m", "service", "up", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "backend: Input should be 'auto', 'torch' or 'onnx'" in done.stderr.replace("\n", " ")


def test_a_port_in_use_is_told_at_once(up: Up, tmp_path: Path) -> None:
    port = up.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "service", "up", "--port", port, "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


def test_three_commands_make_a_classifier(up: Up, folder: Path) -> None:
    fitted = up.cli("fit", folder, "--adapter", "things")
    assert fitted.returncode == 0, fitted.stderr
    assert "things version 2 published" in fitted.stdout  # version 1 was the instant one
    assert "left out crab/notes.txt" in fitted.stderr.replace("\n", " ")

    photos = sorted((PHOTOS / "crab").iterdir())[6:10]
    answered = up.cli("classify", *photos, "--adapter", "things", "--json")
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert (answer["adapter"], answer["version"]) == ("things", 2)
    assert [result["file"] for result in answer["results"]] == [str(photo) for photo in photos]

    listed = up.cli("adapters")
    assert "things" in listed.stdout and "live" in listed.stdout
    assert "succeeded" in up.cli("jobs").stdout


def test_up_in_a_place_of_its_own_says_how_other_commands_find_it(up: Up, tmp_path: Path) -> None:
    (line,) = [line for line in up.log.read_text().splitlines() if "rmadapter login" in line]
    said = line.partition("for other commands: rmadapter ")[2]
    command = f"{sys.executable} -m service {said} && {sys.executable} -m service adapters"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RMADAPTER_")}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), "RMADAPTER_DATA_DIR": str(tmp_path)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"logged in to {up.url} as a tenant" in done.stdout


def test_zero_shot_needs_no_adapter(up: Up) -> None:
    photo = sorted((PHOTOS / "umbrella").iterdir())[0]
    answered = up.cli("classify", photo, "--classes", "umbrella,starfish")
    assert answered.returncode == 0, answered.stderr
    assert "zero-shot" in answered.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("classify", PHOTOS / "crab" / "none.jpg", "--classes", "a,b"), "none.jpg"),
        (("classify", __file__, "--adapter", "unknown"), "there is no adapter 'unknown'"),
        (("fit", "/no/such/folder", "--adapter", "x"), "does not exist"),
    ],
)
def test_errors_are_one_line_and_exit_1(up: Up, arguments: tuple, reason: str) -> None:
    done = up.cli(*arguments)
    assert done.returncode == 1
    assert reason in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_broken_picture_is_told_and_exits_1(up: Up) -> None:
    done = up.cli("classify", __file__, "--classes", "a,b", "--json")
    assert done.returncode == 1
    assert "known format" in json.loads(done.stdout)["results"][0]["error"]


def test_the_administrator_makes_rotates_and_erases_tenants(up: Up) -> None:
    made = json.loads(up.cli("tenants", "create", "Acme").stdout)
    assert "Acme" in up.cli("tenants", "list").stdout
    rotated = json.loads(up.cli("tenants", "rotate", made["tenant"]).stdout)
    for key, status in ((made["api_key"], 401), (rotated["api_key"], 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{up.url}/v1/datasets", headers=headers).status_code == status
    assert up.cli("tenants", "erase", made["tenant"], "--yes").returncode == 0
    assert "Acme" not in up.cli("tenants", "list").stdout


def test_after_a_kill_the_next_start_finds_everything(tmp_path: Path) -> None:
    """kill -9 leaves Redis and the worker behind; the next `up` ends them and reads their data."""
    first = Up(tmp_path / "data")
    key = first.key
    headers = {"Authorization": f"Bearer {key}"}
    made = httpx.post(f"{first.url}/v1/datasets", headers=headers, json={"name": "kept"})
    first.stop(signal.SIGKILL)
    second = Up(tmp_path / "data")
    assert second.key == key
    found = httpx.get(f"{second.url}/v1/datasets/{made.json()['dataset']}", headers=headers)
    assert found.status_code == 200
    wait_for(lambda: sum("service worker" in text for text in children_of(tmp_path)) == 1, 30)
    assert second.stop() == 0
    wait_for(lambda: children_of(tmp_path) == [], 30)
