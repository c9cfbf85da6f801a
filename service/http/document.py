"""The OpenAPI document, in the form that generators of clients read."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute


def operation_id(route: APIRoute) -> str:
    """The name of a call in generated clients: the function's; `/classify` is the older path."""
    return route.name if route.path != "/classify" else f"{route.name}_unversioned"


def generate(app: FastAPI) -> dict[str, Any]:
    """The document of an application's routes.

    FastAPI describes an uploaded file as text with a `contentMediaType`, a form's field that may be
    left out as one that may be null, and a literal as a `const`. Generators take the first for a
    text field, a form cannot hold null, and a default beside a const breaks their code. All three
    are written here as OpenAPI 3.0 wrote them.
    """
    document: dict[str, Any] = _without_const(FastAPI.openapi(app))
    for name, schema in document["components"]["schemas"].items():
        if name.startswith("Body_"):
            schema["properties"] = {
                field: _form_field(given) for field, given in schema["properties"].items()
            }
    return document


def _without_const(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_const(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {name: _without_const(item) for name, item in value.items()}
    if isinstance(plain.get("const"), str):
        plain["enum"] = [plain.pop("const")]
    return plain


def _form_field(schema: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    schema |= options[0] if options else {}
    if schema.pop("contentMediaType", None):
        schema["format"] = "binary"
    if "items" in schema:
        schema["items"] = _form_field(schema["items"])
    return schema
