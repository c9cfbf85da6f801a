"""`rmadapter …` where only the packages of `pip install rmadapter` are: no extra, so no torch.

    python -m tests.support.client_alone classify photo.jpg

All others are hidden from the import system, as if they were not installed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.paths import ROOT

_OWN = {"adapters", "service", "training"}


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _needed() -> set[str]:
    """The distributions that the project's dependencies bring, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    waiting = list(project["dependencies"])
    while waiting:
        wanted = Requirement(waiting.pop())
        if _name(wanted.name) in found or (wanted.marker and not wanted.marker.evaluate()):
            continue
        try:
            waiting += requires(wanted.name) or []
        except PackageNotFoundError:
            continue
        found.add(_name(wanted.name))
    return found


def client_package(folder: Path) -> Path:
    """`rmadapter_client` in a folder, as the wheel has it."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    ((source, name),) = build["targets"]["wheel"]["force-include"].items()
    package = folder / name
    package.mkdir()
    for file in (ROOT / source).iterdir():
        if file.is_file():
            (package / file.name).write_bytes(file.read_bytes())
    return package


def hidden() -> set[str]:
    """The top-level modules of everything else that is installed here."""
    needed = _needed()
    return set(_hidden(needed)) - _OWN


def _hidden(needed: set[str]) -> Iterator[str]:
    for module, distributions in packages_distributions().items():
        if not needed & set(map(_name, distributions)):
            yield module


class _Finder(PathFinder):
    """The usual one, blind to what is hidden."""

    away: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if path is None and fullname in cls.away:
            return None
        return super().find_spec(fullname, path, target)


def hide() -> None:
    """From here on, in this process."""
    _Finder.away = frozenset(hidden())
    sys.meta_path[:] = [_Finder if finder is PathFinder else finder for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.split(".")[0] in _Finder.away]:
        del sys.modules[name]


if __name__ == "__main__":
    hide()
    from service.cli import app

    app()
