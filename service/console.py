"""What every command prints with: tables on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from adapters.errors import RMAdapterError

out, err = Console(), Console(stderr=True)


def print_json(value: Any) -> None:
    """For machines: plain, indented."""
    print(json.dumps(value, indent=2))


@contextmanager
def errors() -> Iterator[None]:
    """One line on stderr and exit code 1 for everything that can go wrong by itself."""
    try:
        yield
    except (RMAdapterError, OSError) as error:
        err.print(f"[red]error:[/] {error}", highlight=False)
        sys.exit(1)
