"""What every command prints with: tables on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from adapters.errors import RMAdapterError
from service.errors import problems_of

out, err = Console(), Console(stderr=True)


def print_json(value: Any) -> None:
    """For machines: plain, indented."""
    print(json.dumps(value, indent=2))


@contextmanager
def errors() -> Iterator[None]:
    """One line on stderr and exit code 1 for everything that can go wrong by itself."""
    try:
        yield
    except ValidationError as error:  # of a setting
        wrong = [f"{problem.field}: {problem.reason}" for problem in problems_of(error.errors())]
        _end("; ".join(wrong))
    except (RMAdapterError, OSError) as error:
        _end(str(error))


def _end(reason: str) -> NoReturn:
    err.print("[red]error:[/]", Text(reason), highlight=False)
    sys.exit(1)
