"""Photos for tests: the bundled ones, and the shared data sets where they are."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.demo.__main__ import PHOTOS
from tests.support.paths import SHARED


def shared_file(name: str) -> Path:
    """A file of the shared data; says what is skipped without it."""
    file = SHARED / name
    if not file.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return file


def photo_folder(folder: Path, classes: Sequence[str], count: int) -> Path:
    """A folder a class, of the first `count` carried photos of each."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for photo in sorted((PHOTOS / name).iterdir())[:count]:
            shutil.copy(photo, folder / name)
    return folder


def coop_layout(folder: Path, classes: Sequence[str]) -> Path:
    """The carried photos of some classes in CoOp's layout, numbered as the classes are given: of
    each, three to train on, one in the validation split, two to test on."""
    split: dict[str, list[list[str | int]]] = {"train": [], "val": [], "test": []}
    photo_folder(folder / "jpg", classes, 6)
    for label, name in enumerate(classes):
        files = sorted(file.name for file in (folder / "jpg" / name).iterdir())
        for part, file in zip(
            ("train", "train", "train", "val", "test", "test"), files, strict=True
        ):
            split[part].append([f"{name}/{file}", label, name])
    (folder / "split_zhou_Flowers.json").write_text(json.dumps(split))
    return folder
