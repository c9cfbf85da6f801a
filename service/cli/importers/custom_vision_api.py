"""Azure Custom Vision's Training API: downloads a project as `from_custom_vision` reads it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from rich.progress import Progress

from service.cli.importers.found import BadImport
from service.cli.terminal import err

Json = dict[str, Any]

_TAKE = 256  # images of one answer, the most that the API gives
_SECONDS = 60.0  # for an answer, or between two parts of a photo


def download(endpoint: str, project: str, key: str, folder: Path) -> None:
    """Downloads the tagged photos of a project, and what the API says of them.

    What is in the folder already is not asked for again, so it may be repeated after it broke off.

    Args:
        endpoint: of the Azure resource, https://NAME.cognitiveservices.azure.com.
        project: the project's id.
        key: the training key.
        folder: gets images-NUMBER.json and a file for each photo, named by its id.

    Raises:
        BadImport: the API refuses, cannot be reached, or answers something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = f"{endpoint.rstrip('/')}/customvision/v3.3/training/projects/{project}"
    with (
        _as_bad_import(endpoint),
        httpx.Client(headers={"Training-Key": key}, timeout=_SECONDS) as api,
        httpx.Client(timeout=_SECONDS, follow_redirects=True) as plain,  # photos need no key
    ):
        found: list[Json] = []
        for number, images in enumerate(_pages(api, f"{base}/images/tagged")):
            (folder / f"images-{number:04d}.json").write_text(json.dumps(images))
            found += images
        _photos(plain, found, folder)


def _pages(api: httpx.Client, url: str) -> Iterator[list[Json]]:
    skip = 0
    while images := _answer(api.get(url, params={"take": _TAKE, "skip": skip})):
        yield images
        skip += len(images)


def _answer(response: httpx.Response) -> list[Json]:
    response.raise_for_status()
    images = response.json()
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise BadImport(f"{response.url.host}: no list of images, as GetTaggedImages answers it")
    return images


def _photos(plain: httpx.Client, images: Iterable[Json], folder: Path) -> None:
    with Progress(console=err) as bar:
        for image in bar.track(list(images), description="download"):
            file = folder / f"{UUID(str(image.get('id')))}.jpg"  # by its content, whatever it is
            if file.exists():
                continue
            unfinished = file.with_suffix(".part")
            with plain.stream("GET", str(image.get("originalImageUri"))) as response:
                response.raise_for_status()
                with unfinished.open("wb") as stream:
                    for part in response.iter_bytes():
                        stream.write(part)
            unfinished.rename(file)


@contextmanager
def _as_bad_import(endpoint: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        answer = error.response
        why = f"{answer.status_code} {answer.reason_phrase}"
        raise BadImport(f"{answer.url.host}{answer.url.path}: {why}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadImport(f"{endpoint} cannot be reached: {error}") from error
    except ValueError as error:  # no JSON, or an id that is none
        raise BadImport(f"{endpoint}: not what the Training API answers: {error}") from error
