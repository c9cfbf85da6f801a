"""Uploads labelled photos: counts them before, and reports what was left out."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress

from adapters.errors import BadImage
from service.cli.importers import Labelled, Photo
from service.cli.terminal import err
from service.client import Client, ClientError, File, Json

_AT_ONCE = 32  # photos that are held in memory
_UNPROCESSABLE = 422  # the status where none of the files is a good photo
_SHOWN = 20  # lines of what is left out, and classes that are named


def counted(labelled: Labelled) -> Json:
    """What would be sent and what would not, for machines."""
    return {
        "photos": labelled.count,
        "classes": {name: len(labelled.classes[name]) for name in sorted(labelled.classes)},
        "left_out": [{"file": where, "reason": why} for where, why in labelled.left_out],
        "left_out_by_reason": labelled.reasons,
    }


def show_count(labelled: Labelled) -> None:
    """The same for people, on stderr, before anything is sent."""
    classes = sorted(labelled.classes.items())
    named = ", ".join(f"{name} {len(photos)}" for name, photos in classes[:_SHOWN])
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    _say(f"{labelled.count} photos of {len(classes)} classes: {named}{more}")
    if reasons := labelled.reasons:
        why = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
        _say(f"{sum(reasons.values())} left out: {why}")
    show_left_out(labelled.left_out)


def _say(text: str) -> None:
    err.print(escape(text), highlight=False, soft_wrap=True)


def show_left_out(left_out: Iterable[tuple[str, str]]) -> None:
    """A line each, and how many more there are."""
    lines = iter(left_out)
    for where, why in islice(lines, _SHOWN):
        _say_left_out(where, why)
    if more := sum(1 for _ in lines):
        _say(f"and {more} more")


def _say_left_out(where: str, why: str) -> None:
    err.print(
        f"[yellow]left out[/] {escape(where)}: {escape(why)}", highlight=False, soft_wrap=True
    )


def upload_archive(client: Client, dataset: str, archive: Path) -> None:
    """Sends a zip or tar file as it is."""
    with err.status(f"uploading {escape(str(archive))}"):
        answer = client.upload_archive(dataset, archive)
    show_left_out(_refused(answer))


def upload_classes(client: Client, dataset: str, labelled: Labelled) -> int:
    """Sends the photos and returns how many were accepted; the others go to `left_out`."""
    taken = 0
    with Progress(console=err) as bar:
        task = bar.add_task("upload", total=labelled.count)
        for label, photos in sorted(labelled.classes.items()):
            for start in range(0, len(photos), _AT_ONCE):
                some = photos[start : start + _AT_ONCE]
                unread: list[tuple[str, str]] = []
                files = list(_read(some, unread))
                taken += _send(client, dataset, label, files, unread) if files else 0
                bar.advance(task, len(some))
                show_left_out(unread)
                labelled.left_out += unread
    return taken


def _send(
    client: Client, dataset: str, label: str, files: list[File], unread: list[tuple[str, str]]
) -> int:
    """Sends one request's photos. If all are refused, the rest of the import goes on."""
    taken = 0
    try:
        for answer in client.upload_class(dataset, label, files):
            unread += _refused(answer)
            taken += answer["accepted"]
    except ClientError as error:
        if error.status != _UNPROCESSABLE:
            raise
        unread += ((f"{label}/{name}", str(error)) for name, _ in files)
    return taken


def _read(photos: Iterable[Photo], unread: list[tuple[str, str]]) -> Iterator[File]:
    for photo in photos:
        try:
            yield photo.name, photo.read()
        except (BadImage, OSError) as error:
            unread.append((str(photo.path), str(error)))


def _refused(answer: Json) -> list[tuple[str, str]]:
    for warning in answer.get("warnings", []):
        err.print(f"[yellow]warning[/] {escape(warning)}", highlight=False, soft_wrap=True)
    return [(rejected["file"], rejected["reason"]) for rejected in answer["rejected"]]
