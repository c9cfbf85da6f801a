"""Every command, link and setting in the documentation is one that there is, and is run."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest
from typer.main import get_command

from service.cli import app
from service.settings import Settings
from tests.support.compose import MAIN, load
from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("service/demo/*.md")])
FENCE, INLINE = re.compile(r"^```"), re.compile(r"`([^`]+)`")
COMMANDS = (
    "make",
    "rmadapter",
    "docker",
    "kubectl",
    "python",
    "pytest",
    "curl",
    "docker/make-secrets.sh",
    "docker/pin.sh",
)
# A command's beginning, the longest that fits, and what runs it: a test, or the script of a clean
# checkout.
RUN_BY = {
    "make setup": ".ci/run",
    "make check": ".ci/run",
    "make test": ".ci/run",
    "make demo": "tests/service/demo/test_demo.py",
    "make serve": "tests/service/embedded/test_up.py",
    "make bench": "tests/test_commands.py",
    "make gpu": "tests/test_commands.py",  # where there is no GPU: that it says so
    "python -m tests.benchmarks": "tests/test_commands.py",
    "python -m tests.benchmarks.cache": "tests/benchmarks/test_cache.py",
    "python -m training.search": "tests/test_commands.py",
    "python -m training.protocols.mixed": "tests/test_commands.py",
    "python -m training.pretrain": "tests/training/test_pretrain.py",  # its last stage
    "make soak": "tests/soak/test_soak.py",
    "python -m tests.soak --only kills": "tests/soak/test_kills.py",
    "python -m tests.soak --only isolation": "tests/soak/test_isolation.py",
    "python -m tests.soak --only overload": "tests/soak/test_soak.py",
    "python -m tests.soak --only hosts": "tests/soak/test_hosts.py",
    "python -m tests.soak.attacks": "tests/soak/test_attacks.py",
    "pytest tests/": "tests/test_end_to_end.py",
    "pytest -s tests/service/records/": "tests/service/records/test_two_stores.py",
    "rmadapter up": "tests/service/embedded/test_up.py",
    "rmadapter fit": "tests/service/embedded/test_up.py",
    "rmadapter classify": "tests/service/embedded/test_up.py",
    "rmadapter login": "tests/service/cli/test_login.py",
    "rmadapter logout": "tests/service/cli/test_login.py",
    "rmadapter cancel": "tests/service/cli/test_command_line.py",
    "rmadapter import": "tests/service/cli/test_command_line.py",
    "rmadapter doctor": "tests/service/cli/test_doctor.py",
    "rmadapter weights": "tests/service/cli/test_weights.py",
    "rmadapter serve": "tests/docker/test_compose_runs.py",
    "rmadapter backup": "tests/service/records/test_backup.py",
    "rmadapter restore": "tests/service/records/test_backup.py",
    "rmadapter evaluate": "tests/test_commands.py",
    "rmadapter --version": "tests/service/cli/test_command_line.py",
    "rmadapter tenants": "tests/service/embedded/test_up.py",
    "rmadapter export": "tests/service/cli/test_export.py",
    "rmadapter openapi": "tests/service/http/test_openapi.py",
    "rmadapter worker": "tests/docker/test_compose_runs.py",
    "rmadapter publish": "tests/service/cli/test_command_line.py",
    "rmadapter keys": "tests/service/cli/test_command_line.py",
    "python -m service.cli.reference": "tests/docs/test_generated.py",
    "make docs": "tests/docs/test_site.py",
    "curl": "tests/docs/test_examples.py",
    "docker/make-secrets.sh": "tests/conftest.py",
    "docker/pin.sh": "tests/docker/test_pin.py",
    "docker buildx build": ".github/workflows/ci.yml",
    "make sbom": "tests/docker/test_sbom.py",
    "docker compose": "tests/docker/test_compose_runs.py",  # as processes
    "kubectl apply": "tests/docker/test_kubernetes.py",  # against Kubernetes's own schema
}
# What no test runs, and why.
NOT_RUN = {
    "kubectl -n rmadapter wait": "needs a cluster",
    "kubectl -n rmadapter exec": "needs a cluster; what it runs there, tenants create, is tested",
    "python -m tests.soak.image": "is itself the Dockerfile's test; root, a gigabyte of packages",
}


def commands() -> list[tuple[str, str]]:
    """(page:line, command): those of indented and fenced blocks, and inline ones of ours."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        lines, fenced, number = page.read_text().split("\n"), False, 0
        while number < len(lines):
            line = lines[number]
            where = f"{page.relative_to(ROOT)}:{number + 1}"
            number += 1
            if FENCE.match(line):
                fenced = not fenced
                continue
            if fenced:
                continue
            if line.startswith("    "):
                while line.endswith("\\"):
                    line = line[:-1] + lines[number].strip()
                    number += 1
                found.append((where, line.strip()))
            else:
                found += [(where, code) for code in INLINE.findall(line) if _is_command(code)]
    return [(where, command) for where, command in found if _is_command(command)]


def _is_command(text: str) -> bool:
    words = _without_variables(text.split())
    return (len(words) > 1 and words[0] in COMMANDS) or text in (
        "docker/make-secrets.sh",
        "docker/pin.sh",
    )


def _without_variables(words: list[str]) -> list[str]:
    """From the command's own name on."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        words = words[1:]
    return words


def words_of(command: str) -> list[str]:
    words = _without_variables(shlex.split(command, comments=True))
    return words[: words.index(">")] if ">" in words else words


@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda text: text[:60])
def test_a_command_is_one_that_there_is(where: str, command: str) -> None:
    for part in command.split(" && "):
        words = words_of(part)
        check = {
            "make": _make,
            "rmadapter": _rmadapter,
            "docker": _docker,
            "kubectl": _kubectl,
            "python": _python,
            "pytest": _pytest,
            "curl": _curl,
        }.get(words[0], _script)
        check(words)


@pytest.mark.parametrize("command", sorted({command for _, command in commands()}))
def test_a_command_is_run_by_a_test_or_it_is_said_why_not(command: str) -> None:
    plain = " ".join(words_of(command))
    assert [start for start in {**RUN_BY, **NOT_RUN} if plain.startswith(start)], plain


def test_what_runs_a_command_is_there_and_no_command_is_listed_in_vain() -> None:
    assert [file for file in RUN_BY.values() if not (ROOT / file).exists()] == []
    assert RUN_BY.keys() & NOT_RUN.keys() == set()
    written = " ".join(" ".join(words_of(command)) for _, command in commands())
    assert [start for start in {**RUN_BY, **NOT_RUN} if start not in written] == []


def _make(words: list[str]) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert [w for w in words[1:] if "=" not in w and w not in targets] == []


def _rmadapter(words: list[str]) -> None:
    """Parsed as far as it goes without files: the command and its options are there."""
    command: click.Command = get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    assert not hasattr(command, "commands") or not rest or rest[0].startswith("-"), rest
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    options |= {"--install-completion"}
    assert [w for w in rest if w.startswith("-") and w.partition("=")[0] not in options] == []
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given = [w for w in rest if not w.startswith("-")]
    assert (
        arguments
        or hasattr(command, "commands")
        or len(given) <= sum(w.startswith("--") for w in rest)
    )


def _docker(words: list[str]) -> None:
    if words[1] == "buildx":
        assert " ".join(words[:3]) in (ROOT / ".github/workflows/ci.yml").read_text()
        return
    assert words[1] == "compose", words
    files = [words[i + 1] for i, word in enumerate(words) if word == "-f"]
    assert [file for file in files if not (ROOT / file).exists()] == []
    services = load(MAIN)["services"]
    profiles = {name for service in services.values() for name in service.get("profiles", [])}
    for option, value in pairwise(words):
        if option == "--scale":
            assert value.partition("=")[0] in services
        if option == "--profile":
            assert value in profiles


def _kubectl(words: list[str]) -> None:
    if "--" in words:  # runs one of ours in a container
        _rmadapter(words[words.index("--") + 1 :])
        (name,) = [w.partition("/")[2] for w in words if w.startswith("deployment/")]
        assert (
            f"kind: Deployment\nmetadata:\n  name: {name}\n"
            in (ROOT / "docker" / "kubernetes" / f"{name}.yaml").read_text()
        )
        return
    if "wait" in words:  # for an object of ours
        (kind, name) = words[-1].split("/")
        text = (ROOT / "docker" / "kubernetes" / f"{name}.yaml").read_text()
        assert f"kind: {kind.capitalize()}\nmetadata:\n  name: {name}\n" in text
        return
    place = next(words[i + 1] for i, word in enumerate(words) if word in ("-k", "-f"))
    assert (ROOT / place).exists(), place


def _python(words: list[str]) -> None:
    assert words[1] == "-m", words
    if words[2].split(".")[0] in ("tests", "service", "training"):
        place = ROOT.joinpath(*words[2].split("."))
        source = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert source.exists(), source
        missing = [w for w in words[3:] if w.startswith("--") and w not in source.read_text()]
        assert missing == []


def _pytest(words: list[str]) -> None:
    files = [w for w in words[1:] if "/" in w]
    assert [file for file in files if not (ROOT / file.split("::")[0]).exists()] == []


def _curl(words: list[str]) -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    (url,) = [w for w in words if "localhost" in w or w.startswith("http")]
    path = "/" + url.partition("localhost:8000/")[2]
    assert "--json" not in words  # curl has it since 7.82; Ubuntu 22.04 has 7.81
    method = "post" if {"-F", "-d"} & set(words) else "get"
    assert method in paths[path], path


def _script(words: list[str]) -> None:
    assert (ROOT / words[0]).exists(), words[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_settings_are_settings(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    known = {f"RMADAPTER_{name.upper()}" for name in Settings.model_fields}
    known |= {"RMADAPTER_API_KEY", "RMADAPTER_URL"}  # the command line's own
    named = set(re.findall(r"RMADAPTER_[A-Z0-9_]+", text))
    compose = set(re.findall(r"RMADAPTER_[A-Z0-9_]+", Path(MAIN).read_text()))
    assert named <= known | compose | {"RMADAPTER_SECRETS_DIR"}
