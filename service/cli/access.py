"""Which service the commands call, and with which key.

Each comes from the first that names it: the options `--url` and `--key`, the variables
RMADAPTER_URL and RMADAPTER_API_KEY (RMADAPTER_ADMIN_KEY for the administrator's commands), the file
that `rmadapter login` wrote, and what `rmadapter up` on this machine left in its data directory.
"""

import inspect
import json
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from adapters.errors import RMAdapterError
from service.client import Client, ClientError
from service.settings import Settings

_PANEL = "The service"
_FORBIDDEN = 403
Url = Annotated[
    str | None,
    typer.Option(
        help="the service's address; else RMADAPTER_URL, or as `login` stored it",
        rich_help_panel=_PANEL,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="an API key, which `ps` shows; better RMADAPTER_API_KEY or `login`",
        rich_help_panel=_PANEL,
    ),
]
_given: ContextVar[dict[str, str | None] | None] = ContextVar("given", default=None)


def calls_service(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command take `--url` and `--key` too, which `given` then returns."""

    @wraps(command)
    def taking(*, url: str | None = None, key: str | None = None, **options: Any) -> None:
        _given.set({"url": url, "key": key})
        command(**options)

    known = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in (("url", Url), ("key", Key))
    ]
    signature = known.replace(parameters=[*known.parameters.values(), *added])
    taking.__signature__ = signature  # type: ignore[attr-defined] # what Typer reads
    taking.__annotations__ = command.__annotations__ | {"url": Url, "key": Key}
    return taking


def given(name: str) -> str | None:
    """What the command line says of `url` or `key`; None where it says nothing."""
    return (_given.get() or {}).get(name)


class BadAccess(RMAdapterError):
    """No key, no address, or a stored login that cannot be read; says what to do."""


@dataclass(frozen=True, slots=True)
class Login:
    """What `rmadapter login` stores: a service, and keys of a tenant and its administrator."""

    url: str
    key: str | None = None
    admin_key: str | None = None


def login_file() -> Path:
    """By the XDG convention: in $XDG_CONFIG_HOME, else in ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "rmadapter" / "config.json"


def stored_login() -> Login | None:
    """The stored login; None where there is none.

    Raises:
        BadAccess: the file is not what `login` writes.
    """
    file = login_file()
    try:
        return Login(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BadAccess(f"{file} cannot be read; `rmadapter logout` deletes it") from error


def store_login(login: Login) -> Path:
    """Writes the file, for its owner's eyes alone from the first byte on."""
    file = login_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump({k: v for k, v in asdict(login).items() if v is not None}, stream)
    new.replace(file)
    return file


def named_url() -> str | None:
    """The service that somebody named; None: that of `rmadapter up` on this machine.

    Raises:
        BadAccess: it is no address.
    """
    login = stored_login()
    url = given("url") or os.environ.get("RMADAPTER_URL") or (login.url if login else None)
    return None if url is None else plain_url(url)


def plain_url(url: str) -> str:
    """An address without the slashes at its end.

    Raises:
        BadAccess: it does not start with http:// or https:// and a host.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadAccess(f"{url!r} is no address of a service; for example http://localhost:8000")
    return url.strip().rstrip("/")


def service_url(settings: Settings) -> str:
    """The service that the commands call."""
    return named_url() or f"http://{settings.host}:{settings.port}"


def key_and_source(settings: Settings, admin: bool = False) -> tuple[str, str]:
    """The key, and where it is from in words.

    Args:
        settings: of this machine.
        admin: the administrator's key instead of a tenant's.

    Raises:
        BadAccess: there is none.
    """
    file = settings.data_dir / ("admin.key" if admin else "default.key")
    for key, source in (
        (given("key"), "--key"),
        _from_variable(settings, admin),
        (_from_login(settings, admin), str(login_file())),
        (_from_file(file), str(file)),
    ):
        if key:
            return key, source
    name = "RMADAPTER_ADMIN_KEY" if admin else "RMADAPTER_API_KEY"
    raise BadAccess(f"no key in {file}: start `rmadapter up`, `rmadapter login`, or set {name}")


def is_administrators(client: Client) -> bool:
    """Whether the client's key is the administrator's.

    Raises:
        ClientError: the service was not reached, or does not know the key.
    """
    try:
        client.call("GET", "/v1/tenants", params={"limit": 1})  # the administrator's alone
    except ClientError as error:
        if error.status != _FORBIDDEN:
            raise
        return False
    return True


def _from_variable(settings: Settings, admin: bool) -> tuple[str | None, str]:
    if not admin:
        return os.environ.get("RMADAPTER_API_KEY"), "RMADAPTER_API_KEY"
    key = settings.admin_key  # also from the file of a mounted secret
    return (key.get_secret_value() if key else None), "RMADAPTER_ADMIN_KEY"


def _from_login(settings: Settings, admin: bool) -> str | None:
    """A stored key goes to the service that it is of, and to no other."""
    login = stored_login()
    if login is None or login.url != service_url(settings):
        return None
    return login.admin_key if admin else login.key


def _from_file(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
