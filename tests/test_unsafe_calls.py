"""No code of the packages opens what others send in a way that could run it or fetch for it."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGES = ("adapters", "training", "service")
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "jsonpickle", "cloudpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
FETCHES = {"urllib.request", "requests", "aiohttp", "urllib3"}


def found(source: str) -> Iterator[str]:
    """What is unsafe in it, each with its line."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in MODULES or name in FETCHES:
                yield f"{node.lineno}: import {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called in CALLS or called.endswith("os.system"):
            yield f"{node.lineno}: {called}"
        if called in ("torch.load", "np.load") and options.get("weights_only") != "True":
            yield f"{node.lineno}: {called} without weights_only=True"
        if options.get("trust_remote_code", "False") != "False" or options.get("shell") == "True":
            yield f"{node.lineno}: {called} with {sorted(options)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_hold_no_unsafe_call(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [f"{f.name}:{line}" for f in files for line in found(f.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import urllib.request",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "exec(text)",
        "load(name, trust_remote_code=True)",
        "run(command, shell=True)",
    ],
)
def test_what_is_unsafe_is_found(line: str) -> None:
    assert list(found(line))


def test_what_is_safe_is_not() -> None:
    assert not list(found("model.eval()\nstore.eval(lua, 1)\ntorch.load(f, weights_only=True)"))


def test_only_clients_and_the_guarded_fetcher_open_http_connections() -> None:
    users = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if "import httpx" in file.read_text() or "from httpx" in file.read_text()
    }
    clients = {
        "service/client.py",
        "service/rmadapter_client/__init__.py",  # the same file
        "service/demo/__main__.py",
        "service/cli/importers/custom_vision_api.py",
    }
    assert users <= clients | {"service/http/fetching.py"}


def test_no_package_reports_home() -> None:
    check = (
        "import os, sys, service\n"
        "assert not {'onnxruntime', 'huggingface_hub'} & sys.modules.keys()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env={})
    assert done.stdout == "1 1\n", done.stderr
