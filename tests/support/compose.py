"""Reads Compose files as Compose does, as far as ours go: overrides, `!reset`, variables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

MAIN = ROOT / "docker-compose.yml"
CPU = ROOT / "docker" / "compose.cpu.yml"

_RESET = object()
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:?[-?])([^}]*))?\}")


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!reset", lambda loader, node: _RESET)


def load(*files: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """These files, each over the one before, with their variables put in."""
    merged: Any = {}
    for file in files:
        merged = _merged(merged, yaml.load(file.read_text(), _Loader))
    return _interpolated(merged, variables or {})


def variables_in(*files: Path) -> set[str]:
    text = "".join(file.read_text() for file in files)
    return {match[1] for match in _VARIABLE.finditer(text) if match[1]}


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(over, dict):
        return over
    base = base if isinstance(base, dict) else {}
    keys = [*base, *(key for key in over if key not in base)]
    both = {key: _merged(base.get(key), over[key]) if key in over else base[key] for key in keys}
    return {key: value for key, value in both.items() if value is not _RESET}


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        filled = {key: _interpolated(item, variables) for key, item in value.items()}
        if "internal" in filled:  # Compose makes what the schema asks for of a variable's text
            filled["internal"] = filled["internal"] in (True, "true")
        return filled
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _value_of(match, variables), value)
    return value


def _value_of(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    name, operator, default = match.groups()
    value = variables.get(name)
    if value or (value is not None and operator in (None, "-", "?")):
        return value
    assert operator and not operator.endswith("?"), f"{name} has no value and no default"
    return default
