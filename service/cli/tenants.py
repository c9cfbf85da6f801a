"""`rmadapter tenants …` for the administrator, `rmadapter keys …` for a tenant."""

from typing import Annotated

import typer

from service.cli.access import calls_service
from service.cli.terminal import JsonFlag, connected, errors, out, print_json, show_list

tenants_app = typer.Typer(no_args_is_help=True, help="Tenants, for the administrator.")
JsonAnyway = Annotated[bool, typer.Option("--json", help="JSON, which is printed in any case")]
keys_app = typer.Typer(no_args_is_help=True, help="API keys of your tenant.")


@tenants_app.command("list")
@calls_service
def list_tenants(as_json: JsonFlag = False) -> None:
    """Lists all tenants."""
    show_list(
        "/v1/tenants",
        as_json,
        ("tenant", "name", "created"),
        lambda tenant: [(tenant["tenant"], tenant["name"], tenant["created_at"])],
        admin=True,
    )


@tenants_app.command("create")
@calls_service
def create_tenant(
    name: Annotated[str, typer.Argument(help="a name for people")], as_json: JsonAnyway = True
) -> None:
    """Makes a tenant and prints its API key, this once.

    Example: rmadapter tenants create "Meadow Ltd"
    """
    with errors(), connected(admin=True) as client:
        print_json(client.call("POST", "/v1/tenants", json={"name": name}))


@tenants_app.command("rotate")
@calls_service
def rotate_key(
    tenant: Annotated[str, typer.Argument(help="the tenant's id")], as_json: JsonAnyway = True
) -> None:
    """Makes a new key for a tenant; the old ones end at once."""
    with errors(), connected(admin=True) as client:
        print_json(client.call("POST", f"/v1/tenants/{tenant}/keys"))


@tenants_app.command("erase")
@calls_service
def erase_tenant(
    tenant: Annotated[str, typer.Argument(help="the tenant's id")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Erases a tenant with all its data."""
    if not yes:
        typer.confirm(f"Erase {tenant} with all its photos and adapters?", abort=True)
    with errors(), connected(admin=True) as client:
        client.call("DELETE", f"/v1/tenants/{tenant}")
    _show_ended(tenant, "erased", as_json)


@keys_app.command("list")
@calls_service
def list_keys(as_json: JsonFlag = False) -> None:
    """Lists keys by id, and when each was last used; the keys themselves are not kept."""
    show_list(
        "/v1/keys",
        as_json,
        ("key id", "scope", "created", "last used"),
        lambda key: [
            (key["key_id"], key["scope"], _minute(key["created_at"]), _minute(key["last_used_at"]))
        ],
    )


@keys_app.command("create")
@calls_service
def create_key(
    scope: Annotated[str, typer.Option(help="classify, or manage: everything")] = "classify",
    as_json: JsonAnyway = True,
) -> None:
    """Makes a key and prints it, this once.

    Example: rmadapter keys create --scope classify
    """
    with errors(), connected() as client:
        print_json(client.call("POST", "/v1/keys", json={"scope": scope}))


@keys_app.command("revoke")
@calls_service
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="as `keys list` has it")], as_json: JsonFlag = False
) -> None:
    """Ends a key at once.

    Example: rmadapter keys revoke key_0123456789abcdef
    """
    with errors(), connected() as client:
        client.call("DELETE", f"/v1/keys/{key_id}")
    _show_ended(key_id, "revoked", as_json)


def _minute(moment: str | None) -> str:
    """A time of the API's, short enough for a table."""
    return moment[:16].replace("T", " ") if moment else "never"


def _show_ended(what: str, state: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": what, "state": state})
    else:
        out.print(f"{what} {state}", highlight=False)
