"""What commands have in common: tables on stdout, progress and errors on stderr, the client.

Exit codes: 0, done; 1, it failed or was refused, and stderr says why; 2, the command line is wrong.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapters.errors import RMAdapterError
from service.cli.access import key_and_source, service_url
from service.client import Client, ClientError, Json
from service.errors import problems_of
from service.settings import Settings

out, err = Console(), Console(stderr=True)
Cell = str | Text
_COLOURS = {
    "succeeded": "green",
    "live": "green",
    "ok": "green",
    "running": "blue",
    "warn": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "fail": "red",
}
JsonFlag = Annotated[bool, typer.Option("--json", help="JSON for machines")]
_HINTS = {  # by the status of a refusal: what to do next
    0: "`rmadapter doctor` looks for the reason; `rmadapter login` or --url names another service",
    401: "`rmadapter login` stores another key; that of `up` is in ~/.rmadapter/default.key there",
    403: "another key may do it: `rmadapter keys create --scope manage`, or ask the administrator",
    404: "`rmadapter adapters` and `rmadapter datasets` list what there is",
    429: "try again in a while; quotas and rates are the service's settings",
}


def print_json(value: Any) -> None:
    """Prints indented JSON without colours, for machines."""
    print(json.dumps(value, indent=2))


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str | None = None
) -> Table:
    """A coloured table; a plain string is shown as it is, for users' names may look like markup."""
    table = Table(*columns, title=Text(title) if title else None)
    table.columns[0].style = "cyan"
    for column in table.columns:
        column.overflow = "fold"  # nothing is cut off where the terminal is narrow
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def coloured(word: str) -> Text:
    """A state in its colour."""
    return Text(word, _COLOURS.get(word, ""))


def show_list(
    path: str,
    as_json: bool,
    columns: Sequence[str],
    rows: Callable[[Json], Iterable[Sequence[Cell]]],
    admin: bool = False,
) -> None:
    """Every item of a list of the service: as JSON, or as a table with the rows of each."""
    with errors(), connected(admin) as client:
        items = list(client.pages(path))
    if as_json:
        print_json(items)
        return
    out.print(table_of(columns, (row for item in items for row in rows(item))))


@contextmanager
def errors() -> Iterator[None]:
    """Turns expected errors into one line on stderr and exit code 1."""
    try:
        yield
    except ValidationError as error:  # of a setting
        wrong = [f"{problem.field}: {problem.reason}" for problem in problems_of(error.errors())]
        end("; ".join(wrong))
    except (RMAdapterError, ClientError, OSError) as error:
        hint = _HINTS.get(error.status, "") if isinstance(error, ClientError) else ""
        end(f"{error}\n{hint}".strip())


def end(reason: str) -> NoReturn:
    """The reason on stderr, and exit code 1."""
    err.print("[red]error:[/]", Text(reason), highlight=False)
    sys.exit(1)


@contextmanager
def connected(admin: bool = False) -> Iterator[Client]:
    """A client of the service that the command line, the environment or a login names."""
    settings = Settings()
    with Client(service_url(settings), key_and_source(settings, admin)[0]) as client:
        yield client
