"""What `rmadapter doctor` finds of the service that the commands call: address, key, their file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.cli.access import BadAccess, is_administrators, key_and_source, named_url, service_url
from service.client import Client, ClientError
from service.settings import Settings

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `mend` says what to do, where there is something."""

    what: str
    state: State
    says: str
    mend: str = ""


def reach(settings: Settings) -> Iterator[Finding]:
    """The service, then the key where it lies, then whether the service takes it."""
    url = service_url(settings)
    yield (service := _service(url, named_url() is not None))
    try:
        key, source = key_and_source(settings)
    except BadAccess as error:
        mend = "`rmadapter up` makes one here; `rmadapter login` stores that of a server elsewhere"
        yield Finding("key", "warn", str(error), mend)
        return
    yield _key(source)
    if service.state == "ok":
        yield _sign_in(url, key, source)


def _service(url: str, named: bool) -> Finding:
    try:
        with Client(url, "", wait_seconds=0) as client:
            client.call("GET", "/readyz")
    except ClientError as error:
        if error.status == 0 and not named:
            mend = "`rmadapter up` starts one here; `rmadapter login` names one elsewhere"
            return Finding("service", "warn", f"nothing answers at {url}", mend)
        mend = "--url, RMADAPTER_URL or `rmadapter login`: an address that this machine reaches"
        if error.status:
            mend = f"{url}/readyz says what does not work there"
        return Finding("service", "fail", f"{url}: {error}", mend)
    return Finding("service", "ok", f"{url} is ready")


def _key(source: str) -> Finding:
    file = Path(source)
    if file.is_file() and file.stat().st_mode & 0o077:
        return Finding("key", "warn", f"others can read {file}", f"chmod 600 {file}")
    return Finding("key", "ok", f"from {source}")


def _sign_in(url: str, key: str, source: str) -> Finding:
    try:
        with Client(url, key, wait_seconds=0) as client:
            if not is_administrators(client):
                return Finding("sign-in", "ok", "the service knows the key, of a tenant")
    except ClientError as error:
        mend = "`rmadapter login` stores another key"
        return Finding("sign-in", "fail", f"the key from {source}: {error}", mend)
    mend = "a tenant's key is needed for photos and adapters: `rmadapter tenants create NAME`"
    return Finding("sign-in", "warn", "the key is the administrator's", mend)
