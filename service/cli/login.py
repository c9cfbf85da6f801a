"""`rmadapter login` and `logout`: the service and key that all commands use from then on."""

import sys
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit

import typer

from service.cli.access import (
    Login,
    given,
    is_administrators,
    login_file,
    plain_url,
    store_login,
    stored_login,
)
from service.cli.terminal import JsonFlag, err, errors, out, print_json
from service.client import Client

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def login(
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="read the key from standard input")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Asks for a service's address and a key, checks them there and stores them for all commands.

    The file is for your eyes alone: ~/.config/rmadapter/config.json, or below XDG_CONFIG_HOME.

    Example: rmadapter login --url https://vision.example.com
    """
    url = given("url") or typer.prompt("URL of the service", "http://localhost:8000", err=True)
    key = given("key") or _read_key(key_stdin)
    with errors():
        url = plain_url(url)
        _warn_of_plain_http(url)
        made = _checked(url, key)
        file = store_login(made)
    if as_json:
        print_json({"url": url, "admin": made.admin_key == key, "file": str(file)})
        return
    whose = "the administrator" if made.admin_key == key else "a tenant"
    out.print(f"logged in to {url} as {whose}; stored in {file}", soft_wrap=True, highlight=False)


def logout(as_json: JsonFlag = False) -> None:
    """Deletes the stored address and key. The key itself stays valid: `keys revoke` ends it.

    Example: rmadapter logout
    """
    with errors():
        file = login_file()
        there = file.exists()
        file.unlink(missing_ok=True)
    if as_json:
        print_json({"deleted": there, "file": str(file)})
    else:
        out.print(f"{'deleted' if there else 'nothing was stored in'} {file}", soft_wrap=True)


def _read_key(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().strip()
    return str(typer.prompt("API key", hide_input=True, err=True)).strip()


def _warn_of_plain_http(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
        err.print(f"[yellow]warning[/] {url} is not encrypted: the network can read the key")


def _checked(url: str, key: str) -> Login:
    """What to store, beside a key of the other kind that is stored for the same service.

    Raises:
        ClientError: the service was not reached, or does not know the key.
    """
    before = stored_login()
    same = before if before is not None and before.url == url else Login(url)
    with Client(url, key) as client:
        return replace(same, **{"admin_key" if is_administrators(client) else "key": key})
