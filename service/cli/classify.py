"""`rmadapter classify …`: photos, folders and patterns in; a table, JSON, JSON lines or CSV out."""

import csv
import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress
from rich.text import Text

from service.cli.importers import Labelled
from service.cli.importers.files import walk
from service.cli.importers.found import no_picture
from service.cli.terminal import Cell, JsonFlag, connected, err, errors, out, print_json, table_of
from service.client import Client, ClientError, Json

Format = Literal["table", "json", "jsonl", "csv"]
_AT_ONCE = 32  # pictures of one request
_COLUMNS = ("file", "label", "score", "error", "adapter", "version")


def classify(
    images: Annotated[
        list[str], typer.Argument(help="photos, folders of photos, patterns such as 'in/**/*.jpg'")
    ],
    classes: Annotated[str | None, typer.Option(help="class names, separated by commas")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="the adapter's name; omit it for zero-shot")
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="a version of the adapter; omit it for the live one")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="a prompt such as 'a sketch of a {}.'; repeatable")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="a lower score answers none of these")
    ] = None,
    output: Annotated[
        Format, typer.Option("--format", help="table, json, jsonl (a line per photo) or csv")
    ] = "table",
    as_json: JsonFlag = False,
) -> None:
    """Classifies photos, also those of folders. It exits with 1 where one could not be read.

    Example: rmadapter classify *.jpg --adapter flowers --classes rose,tulip

    Example: rmadapter classify ./inbox --adapter flowers --format csv > labels.csv
    """
    if version is not None and adapter is None:
        raise typer.BadParameter("--version needs --adapter")
    names = [name.strip() for name in classes.split(",")] if classes is not None else None
    options = {"version": version, "min_score": min_score, "top_k": 3, "template": template}
    with errors(), connected() as client:
        files = [file for given in images for file in _files(given)]
        answers = _answers(files, lambda some: _ask(client, some, names, adapter, **options))
        failed = _PRINTERS["json" if as_json else output](answers)
    if failed:
        raise typer.Exit(1)


def _ask(
    client: Client,
    files: Sequence[Path],
    classes: Sequence[str] | None,
    adapter: str | None,
    **options: object,
) -> Json:
    read = [(str(file), file.read_bytes()) for file in files]
    return client.classify(read, classes, adapter, **options)


def _files(given: str) -> list[Path]:
    """The photos that one argument names.

    Raises:
        ClientError: a folder or a pattern without photos.
    """
    path = Path(given)
    if path.is_dir():
        found = [file for file in walk(path, Labelled()) if no_picture(file) is None]
    elif not path.exists() and glob.has_magic(given):
        matches = map(Path, sorted(glob.glob(given, recursive=True)))  # noqa: PTH207 - also absolute
        found = [file for file in matches if file.is_file()]
    else:
        return [path]
    if not found:
        raise ClientError(f"there is no photo in {given}")
    return found


def _answers(files: Sequence[Path], ask: Callable[[Sequence[Path]], Json]) -> Iterator[Json]:
    """An answer per request, as they come; a bar with the time left where there are several."""
    with Progress(console=err, transient=True, disable=len(files) <= _AT_ONCE) as bar:
        task = bar.add_task("classify", total=len(files))
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            yield ask(some)
            bar.advance(task, len(some))


def _whole(answers: Iterator[Json]) -> Json:
    """All answers as one."""
    first = next(answers)
    results = chain(first["results"], *(answer["results"] for answer in answers))
    return first | {"results": list(results)}


def _failed(results: Sequence[Json]) -> bool:
    return any(result["error"] for result in results)


def _print_table(answers: Iterator[Json]) -> bool:
    answer = _whole(answers)
    name = f"{answer['adapter']} version {answer['version']}" if answer["adapter"] else "zero-shot"
    rows = map(_table_row, answer["results"])
    out.print(table_of(("file", "label", "score", "next"), rows, title=name))
    return _failed(answer["results"])


def _table_row(result: Json) -> tuple[Cell, ...]:
    if result["error"]:
        return result["file"], Text(result["error"], "red"), "", ""
    first, *others = result["predictions"]
    rest = ", ".join(f"{p['label']} {p['score']:.2f}" for p in others)
    label = Text(result["label"], "green") if result["label"] else Text("none of these", "dim")
    return result["file"], label, f"{first['score']:.2f}", Text(rest, "dim")


def _print_json(answers: Iterator[Json]) -> bool:
    answer = _whole(answers)
    print_json(answer)
    return _failed(answer["results"])


def _print_lines(answers: Iterator[Json]) -> bool:
    """A line as soon as its photo is answered: {"file", "label", …, "adapter", "version"}."""
    failed = False
    for answer in answers:
        about = {name: answer[name] for name in ("adapter", "version")}
        for result in answer["results"]:
            print(json.dumps(result | about), flush=True)
        failed |= _failed(answer["results"])
    return failed


def _print_csv(answers: Iterator[Json]) -> bool:
    """The best label of each photo; an empty one is below `--min-score`, or the error says why."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(_COLUMNS)
    failed = False
    for answer in answers:
        rows.writerows(_csv_row(answer, result) for result in answer["results"])
        failed |= _failed(answer["results"])
    return failed


def _csv_row(answer: Json, result: Json) -> tuple[object, ...]:
    best = result["predictions"][0]["score"] if result["predictions"] else None
    score = None if best is None else f"{best:.6f}"
    told = (result["file"], result["label"], score, result["error"])
    return (*told, answer["adapter"], answer["version"])


_PRINTERS: dict[Format, Callable[[Iterator[Json]], bool]] = {
    "table": _print_table,
    "json": _print_json,
    "jsonl": _print_lines,
    "csv": _print_csv,
}
