"""Generates the documentation pages of commands and settings from the code.

    python -m service.cli.reference docs

writes `command-line.md` and `settings.md` into a folder. A test compares them with the code.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from typer.main import get_command

from service.cli import app
from service.settings import Settings

_MADE = "<!-- Made by `python -m service.cli.reference docs`; edit the code, not this page. -->"
_EXAMPLE = re.compile(r"^Example: (.+)$", re.MULTILINE)
_HIDDEN = ("help", "install_completion", "show_completion")  # told once, above all commands
_ACCESS = """## The service and its key

A command that calls the service takes `--url` and `--key`. What they do not say comes from
`RMADAPTER_URL` and `RMADAPTER_API_KEY`, else from the login, else it is `rmadapter up` on this
machine: `http://127.0.0.1:8000` and `~/.rmadapter/default.key`. A stored key goes to the service it
is of, and to no other. The commands below `tenants` take the administrator's key:
`RMADAPTER_ADMIN_KEY`, or the login's. No command prints a key that it was given."""
_ALSO = "Also `--url` and `--key`: [the service and its key](#the-service-and-its-key)."


def command_line() -> str:
    """Every command with its arguments and options, as Markdown."""
    root: Any = get_command(app)  # typer's own click, which has no types outside
    lines = [
        "# Command line",
        "",
        _MADE,
        "",
        "`--help` after a command says the same in a terminal.",
        "",
        root.epilog or "",
        "",
        _ACCESS,
    ]
    for path, command in _commands(root, ("rmadapter",)):
        lines += ["", *_section(path, command)]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting with its default, as Markdown."""
    lines = [
        "# Settings",
        "",
        _MADE,
        "",
        "Each is an environment variable, or a file with its name in lower case in the folder of",
        "secrets: `/run/secrets`, or the folder that `RMADAPTER_SECRETS_DIR` names.",
        "",
        *_table(
            ("variable", "default", "what it is"), map(_setting, Settings.model_fields.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    text = command.help or ""
    yield f"## {' '.join(path)}"
    yield ""
    yield " ".join(_EXAMPLE.sub("", text).split())
    for example in _EXAMPLE.findall(text):
        yield from ("", f"    {example}")
    calls_service = {"url", "key"} <= {p.name for p in command.params}
    hidden = (*_HIDDEN, "url", "key") if calls_service else _HIDDEN
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name not in hidden]
    if shown:
        rows = map(_parameter, sorted(shown, key=_options_last))
        yield from ("", *_table(("argument or option", "what it is"), rows))
    if calls_service:
        yield from (
            "",
            "Also `--url` and `--key`: [the service and its key](#the-service-and-its-key).",
        )


def _options_last(given: Any) -> bool:
    return str(given.param_type_name) != "argument"


def _parameter(given: Any) -> tuple[str, str]:
    says = str(getattr(given, "help", None) or "")
    if given.param_type_name == "argument":
        return f"`{str(given.name).upper()}`", says if given.required else f"{says} (optional)"
    name = given.opts[0]
    flag = getattr(given, "is_flag", False)
    shown = f"`{name}`" if flag else f"`{name} VALUE`"
    if given.required:
        return shown, f"{says} (required)"
    default = None if flag or callable(given.default) else given.default
    return shown, says if default is None else f"{says} (default `{default}`)"


def _setting(item: tuple[str, FieldInfo]) -> tuple[str, str, str]:
    name, field = item
    return f"`RMADAPTER_{name.upper()}`", _default(field.default), field.description or ""


def _default(value: Any) -> str:
    if value is None or value == "":
        return "unset"
    if isinstance(value, Path):
        return f"`~/{value.relative_to(Path.home())}`"
    return f"`{value}`"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _main(folder: Path) -> None:
    (folder / "command-line.md").write_text(command_line())
    (folder / "settings.md").write_text(settings())


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
