"""The command line against a real server: what it prints, how it ends, and what it says to do."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from adapters.clip import FrozenCLIP
from service import __version__
from service.cli import app
from service.cli.terminal import coloured, table_of
from service.client import Client
from tests.support.api import ADMIN_KEY, Api, upload
from tests.support.photos import photo_folder
from tests.support.random_adapters import add_version
from training.data import Sample

runner = CliRunner()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of two, and a file that is no picture."""
    folder = photo_folder(tmp_path / "photos", ("crab", "lotus"), 2)
    (folder / "crab" / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_an_import_says_what_it_left_out_and_what_comes_next(run, photos: Path) -> None:
    done = run("import", "folder", photos)
    assert done.exit_code == 0, done.output
    assert "left out crab/broken.jpg: not a picture" in done.output
    assert "4 photos of 2 classes" in done.output
    assert "next: rmadapter fit --dataset dataset_" in done.output
    (dataset,) = json.loads(run("datasets", "--json").stdout)
    assert dataset["labels"] == {"crab": 2, "lotus": 2}
    assert dataset["name"] == "photos"


@pytest.mark.parametrize("kind", ["csv", "coco", "custom-vision"])
def test_each_kind_of_import_ends_in_the_same_data_set(run, photos: Path, kind: str) -> None:
    (photos / "crab" / "broken.jpg").unlink()
    files = sorted(photos.glob("*/*.jpg"))
    if kind == "csv":
        given = photos / "labels.csv"
        with given.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["image", "label"])
            rows.writerows([f.relative_to(photos), f.parent.name] for f in files)
    elif kind == "coco":
        given = photos / "a.json"
        document = {
            "categories": [{"id": i, "name": n} for i, n in enumerate(("crab", "lotus"))],
            "images": [{"id": str(f), "file_name": str(f.relative_to(photos))} for f in files],
            "annotations": [
                {"image_id": str(f), "category_id": int(f.parent.name == "lotus")} for f in files
            ],
        }
        given.write_text(json.dumps(document))
    else:
        given = photos
        images = [
            {"id": f.stem, "path": str(f.relative_to(photos)), "tags": [{"tagName": f.parent.name}]}
            for f in files
        ]
        images = [image | {"id": str(i)} for i, image in enumerate(images)]
        (photos / "tagged.json").write_text(json.dumps(images))
    done = run("import", kind, given, "--name", "mine", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["accepted"], answer["left_out"]) == (4, [])
    (dataset,) = json.loads(run("datasets", "--json").stdout)
    assert (dataset["name"], dataset["labels"]) == ("mine", {"crab": 2, "lotus": 2})


def test_a_dry_run_counts_and_sends_nothing(run, photos: Path, monkeypatch) -> None:
    (photos / ".DS_Store").write_bytes(b"x")
    done = run("import", "folder", photos, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "4 photos of 2 classes: crab 2, lotus 2" in done.output
    assert "2 left out: 1 × not a picture by its content; 1 × a hidden or system" in done.output
    assert "nothing was sent" in done.output
    assert json.loads(run("datasets", "--json").stdout) == []
    monkeypatch.setenv("RMADAPTER_URL", "http://127.0.0.1:9")  # no service is needed
    assert json.loads(run("import", "folder", photos, "--dry-run", "--json").stdout) == {
        "photos": 4,
        "classes": {"crab": 2, "lotus": 2},
        "left_out": [{"file": "crab/broken.jpg", "reason": "not a picture by its content"}],
        "left_out_by_reason": {"not a picture by its content": 1, "a hidden or system file": 1},
    }


def test_an_import_says_its_count_before_it_sends(run, photos: Path) -> None:
    said = run("import", "folder", photos).stderr
    assert said.index("4 photos of 2 classes") < said.index("upload")


def test_a_class_without_a_good_photo_does_not_end_an_import(run, photos: Path) -> None:
    """Its files start as pictures do, so that the service finds them broken."""
    (photos / "apple").mkdir()
    (photos / "apple" / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    done = run("import", "folder", photos, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["accepted"] == 4
    assert [item["file"] for item in answer["left_out"]] == ["crab/broken.jpg", "apple/1.jpg"]
    (dataset,) = json.loads(run("datasets", "--json").stdout)
    assert dataset["labels"] == {"crab": 2, "lotus": 2}


def test_boxes_arrive_as_photos_of_their_own(run, photos: Path) -> None:
    for label in ("crab", "lotus"):
        (photos / f"{label}.xml").write_text(
            f"<annotation><filename>{label}/none.jpg</filename><object><name>{label}</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></annotation>"
        )
        next((photos / label).glob("image*")).rename(photos / label / "none.jpg")
    done = run("import", "voc", photos, "--json")
    assert json.loads(done.stdout)["accepted"] == 2, done.output
    (dataset,) = json.loads(run("datasets", "--json").stdout)
    assert dataset["labels"] == {"crab": 1, "lotus": 1}


def test_an_import_of_nothing_makes_no_data_set(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("import", "folder", tmp_path / "empty")
    assert done.exit_code == 1
    assert "there is no photo with a class" in done.output
    assert json.loads(run("datasets", "--json").stdout) == []


def test_classify_prints_a_table_or_json_and_fails_for_a_broken_file(run, photos: Path) -> None:
    good = sorted((photos / "crab").glob("image*"))
    done = run("classify", *good, "--classes", "crab, lotus")
    assert done.exit_code == 0, done.output
    assert "zero-shot" in done.output
    answer = json.loads(run("classify", *good, "--classes", "crab,lotus", "--json").stdout)
    assert [len(r["predictions"]) for r in answer["results"]] == [2, 2]
    done = run("classify", photos / "crab" / "broken.jpg", "--classes", "crab,lotus")
    assert done.exit_code == 1
    assert "not a picture" in done.output


def test_classify_asks_a_version_that_is_not_published(
    run, api: Api, client: Client, clip: FrozenCLIP, photos: Path
) -> None:
    records = api.components.records
    for number in (1, 2):
        add_version(records, clip, client.tenant, "mine", number)
    records.adapters.publish(client.tenant, "mine", 1)
    photo = next((photos / "crab").glob("image*"))
    for options, version in ((["--version", "2"], 2), ([], 1)):
        done = run("classify", photo, "--adapter", "mine", *options, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["version"] == version


@pytest.mark.parametrize("options", [["--version", "2"], ["--adapter", "a", "--version", "0"]])
def test_a_version_needs_an_adapter_and_counts_from_1(run, photos: Path, options) -> None:
    done = run("classify", next(photos.glob("*/*.jpg")), "--classes", "a,b", *options)
    assert done.exit_code == 2
    assert "--version" in done.output


def test_publish_says_what_is_live_and_cancel_ends_a_fit(
    run, api: Api, client: Client, clip: FrozenCLIP, samples: list[Sample]
) -> None:
    add_version(api.components.records, clip, client.tenant, "mine", 1)
    assert "mine version 1 is live" in run("publish", "mine", 1).output
    assert json.loads(run("publish", "mine", 1, "--json").stdout)["adapter"] == "mine"
    job = client.create_job(upload(client, samples[:30]), "other")["job"]
    assert json.loads(run("cancel", job, "--json").stdout)["state"] == "cancelled"


def test_keys_are_made_listed_and_revoked(run) -> None:
    made = json.loads(run("keys", "create", "--scope", "classify").stdout)
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert made["key_id"] in [key["key_id"] for key in listed]
    assert made["key_id"] in run("keys", "list").output
    assert run("keys", "revoke", made["key_id"]).exit_code == 0
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert made["key_id"] not in [key["key_id"] for key in listed]


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["adapters"], {"RMADAPTER_API_KEY": "rma_x"}, "`rmadapter login` stores another key"),
        (["adapters"], {"RMADAPTER_URL": "http://127.0.0.1:9"}, "`rmadapter doctor` looks"),
        (["publish", "nowhere", "1"], {}, "`rmadapter adapters` and `rmadapter datasets` list"),
        (["fit", "/nowhere", "--adapter", "a"], {}, "/nowhere does not exist"),
        (["import", "csv", "/nowhere.csv"], {}, "/nowhere.csv cannot be read"),
        (["classify", "/nowhere.jpg", "--classes", "a,b"], {}, "/nowhere.jpg"),
    ],
)
def test_an_error_is_exit_code_1_and_says_what_to_do(
    run, monkeypatch: pytest.MonkeyPatch, arguments: list, variables: dict, says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run(*arguments)
    assert done.exit_code == 1
    assert says in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments", [["fit", "--adapter", "a"], ["publish", "a", "b"], ["nothing"]]
)
def test_a_wrong_command_line_is_exit_code_2(run, arguments: list) -> None:
    assert run(*arguments).exit_code == 2


def test_every_command_that_answers_does_so_as_json_and_clients_take_a_service() -> None:
    processes = {"up", "serve", "worker", "weights", "openapi"}  # run on, or print JSON in any case
    here = processes | {"logout", "backup", "restore"}
    for name, command in all_commands():
        options = {option for p in command.params for option in p.opts}
        assert "--json" in options or name in processes, name
        called = name not in here and not name.startswith("evaluate")
        assert ({"--url", "--key"} <= options) == called, name


def all_commands():
    """(name, command) of each, also of groups."""
    import typer

    for name, command in typer.main.get_command(app).commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {sub}", one) for sub, one in command.commands.items())
        else:
            yield name, command


def test_every_command_has_help_and_those_that_take_something_an_example() -> None:
    for name, command in all_commands():
        assert command.help, name
        takes = [p for p in command.params if p.param_type_name == "argument" and p.required]
        if takes and not name.startswith("tenants"):
            assert f"rmadapter {name}" in command.help, name


def test_names_that_look_like_markup_are_shown_as_they_are(
    run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    odd = Path("[bold]crab[red].jpg")
    odd.write_bytes(next((photos / "crab").glob("image*")).read_bytes())
    done = run("classify", odd, "--classes", "[i]crab,[/]", "--json")
    assert done.exit_code == 0
    shown = run("classify", odd, "--classes", "[i]crab,[/]").stdout
    assert odd.name in shown and "[i]crab" in shown and "[/]" in shown


def test_tables_have_colours_on_a_terminal_and_none_in_a_pipe() -> None:
    table = table_of(("job", "state"), [("job_1", coloured("succeeded"))])
    terminal, pipe = io.StringIO(), io.StringIO()
    Console(file=terminal, force_terminal=True, color_system="standard").print(table)
    Console(file=pipe, force_terminal=False).print(table)
    assert "\x1b[32msucceeded" in terminal.getvalue()
    assert "succeeded" in pipe.getvalue() and "\x1b" not in pipe.getvalue()


def test_the_version_is_printed() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"rmadapter {__version__}\n")


def test_the_administrators_commands_read_the_mounted_secret(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in the containers, where no variable and no data folder holds the admin key."""
    (tmp_path / "rmadapter_admin_key").write_text(ADMIN_KEY)
    monkeypatch.setenv("RMADAPTER_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("RMADAPTER_ADMIN_KEY", raising=False)
    monkeypatch.setenv("RMADAPTER_URL", api.url)
    monkeypatch.setenv("RMADAPTER_DATA_DIR", str(tmp_path / "nothing"))
    result = runner.invoke(app, ["tenants", "create", "Meadow Ltd"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["api_key"].startswith("rma_")


def test_a_shell_completes_commands() -> None:
    command = Path(sys.executable).parent / "rmadapter"
    words = {"COMP_WORDS": "rmadapter cla", "COMP_CWORD": "1"}
    environment = os.environ | words | {"_RMADAPTER_COMPLETE": "complete_bash"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["classify"], done.stderr
