"""`rmadapter import …` counts photos that another tool has labelled, then sends them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from service.cli.access import calls_service
from service.cli.importers import (
    BadImport,
    Labelled,
    from_coco,
    from_csv,
    from_custom_vision,
    from_folder,
    from_huggingface,
    from_label_studio,
    from_voc,
)
from service.cli.importers.custom_vision_api import download
from service.cli.terminal import JsonFlag, connected, errors, out, print_json
from service.cli.upload import counted, show_count, upload_classes

import_app = typer.Typer(no_args_is_help=True, help="Photos that another tool has labelled.")

DatasetName = Annotated[str | None, typer.Option(help="the new data set's name")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only count what would be sent")]
_TRAINING_KEY = "CUSTOM_VISION_TRAINING_KEY"
_MAX_NAME = 100  # characters of a data set's name


@import_app.command("custom-vision")
@calls_service
def import_custom_vision(
    path: Annotated[Path, typer.Argument(help="a folder with photos and GetTaggedImages' JSON")],
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="of the Azure resource: the project is downloaded to the folder first, with the"
            " training key in CUSTOM_VISION_TRAINING_KEY"
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="the project's id, for --endpoint")] = None,
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """An Azure Custom Vision project's images and tags; tags keep their ids.

    Example: rmadapter import custom-vision ./export
    """

    def read(folder: Path) -> Labelled:
        if endpoint is not None:
            key = os.environ.get(_TRAINING_KEY)
            if project is None or not key:
                raise BadImport(f"--endpoint needs --project, and {_TRAINING_KEY} set")
            download(endpoint, project, key, folder)
        return from_custom_vision(folder)

    _import(path, name, dry_run, as_json, read)


@import_app.command("csv")
@calls_service
def import_csv(
    file: Annotated[Path, typer.Argument(help="a file with a line per photo")],
    image: Annotated[
        str, typer.Option(help="name or number of the column of paths, relative to the file")
    ] = "image",
    label: Annotated[str, typer.Option(help="the column of classes")] = "label",
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Imports photos and classes from a CSV file of any encoding and delimiter.

    Example: rmadapter import csv labels.csv --image path --label species
    """
    _import(file, name, dry_run, as_json, lambda path: from_csv(path, image, label))


@import_app.command("folder")
@calls_service
def import_folder(
    path: Annotated[Path, typer.Argument(help="a folder per class, also within train, val, test")],
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """A folder per class, as torchvision's ImageFolder and YOLO's classification have it.

    Example: rmadapter import folder ./flowers
    """
    _import(path, name, dry_run, as_json, from_folder)


@import_app.command("coco")
@calls_service
def import_coco(
    path: Annotated[Path, typer.Argument(help="the JSON file, or the folder that was exported")],
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Imports COCO: whole photos if they have one class, else each box.

    Example: rmadapter import coco annotations/instances_val2017.json
    """
    _import(path, name, dry_run, as_json, from_coco)


@import_app.command("voc")
@calls_service
def import_voc(
    path: Annotated[Path, typer.Argument(help="a folder with Annotations and JPEGImages")],
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Imports Pascal VOC: every box becomes a photo of its class.

    Example: rmadapter import voc VOCdevkit/VOC2012
    """
    _import(path, name, dry_run, as_json, from_voc)


@import_app.command("label-studio")
@calls_service
def import_label_studio(
    path: Annotated[Path, typer.Argument(help="a JSON or JSON-MIN export beside the photos")],
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Imports Label Studio's choices and rectangles.

    Example: rmadapter import label-studio export.json
    """
    _import(path, name, dry_run, as_json, from_label_studio)


@import_app.command("huggingface")
@calls_service
def import_huggingface(
    path: Annotated[Path, typer.Argument(help="a folder with metadata.csv or metadata.jsonl")],
    label: Annotated[str | None, typer.Option(help="the field of the class")] = None,
    name: DatasetName = None,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Imports Hugging Face's imagefolder.

    Example: rmadapter import huggingface ./dataset --label species
    """
    _import(path, name, dry_run, as_json, lambda folder: from_huggingface(folder, label))


def _import(
    path: Path, name: str | None, dry_run: bool, as_json: bool, read: Callable[[Path], Labelled]
) -> None:
    with errors():
        labelled = read(path)
        show_count(labelled)
        if not labelled.classes:
            raise BadImport(f"{path}: there is no photo with a class")
        if dry_run:
            _show_dry_run(labelled, as_json)
        else:
            _send((name or path.absolute().stem)[:_MAX_NAME], labelled, as_json)


def _show_dry_run(labelled: Labelled, as_json: bool) -> None:
    if as_json:
        print_json(counted(labelled))
    else:
        out.print("nothing was sent")


def _send(name: str, labelled: Labelled, as_json: bool) -> None:
    with connected() as client:
        tags = {label: labelled.tags[label] for label in labelled.classes if label in labelled.tags}
        dataset = client.create_dataset(name, tags)
        taken = upload_classes(client, dataset, labelled)
    if as_json:
        answer = {"dataset": dataset, "accepted": taken}
        print_json(
            answer | {key: counted(labelled)[key] for key in ("left_out", "left_out_by_reason")}
        )
    else:
        out.print(f"{taken} photos of {len(labelled.classes)} classes in {dataset}")
        out.print(f"next: rmadapter fit --dataset {dataset} --adapter NAME", soft_wrap=True)
