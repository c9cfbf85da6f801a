"""docs/openapi.json is what the code says, with an example for every call."""

import json
from typing import Any

import pytest

from service.http.app import document
from tests.support.paths import ROOT

FILE = ROOT / "docs" / "openapi.json"
MADE = document()
CALLS = [(path, method) for path, methods in MADE["paths"].items() for method in methods]
Schema = dict[str, Any]


def test_the_file_is_what_the_code_says() -> None:
    same = json.loads(FILE.read_text()) == MADE
    assert same, "make it anew: rmadapter openapi > docs/openapi.json"


def resolved(schema: Schema) -> Schema:
    if "$ref" in schema:
        return resolved(MADE["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    return schema


def has_example(schema: Schema) -> bool:
    """Of its own; or, of a page or a form, in its parts."""
    schema = resolved(schema)
    if schema.get("examples") or "example" in schema:
        return True
    if any(has_example(choice) for choice in schema.get("anyOf", [])):
        return True
    if items := schema.get("properties", {}).get("items"):
        return has_example(items["items"])
    return any(has_example(part) for part in schema.get("properties", {}).values())


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_every_call_has_words_and_examples_of_what_goes_in_and_comes_out(
    path: str, method: str
) -> None:
    call = MADE["paths"][path][method]
    assert call["summary"]
    for content in call.get("requestBody", {}).get("content", {}).values():
        assert has_example(content["schema"]), "what goes in"
    for status, response in call["responses"].items():
        for kind, content in response.get("content", {}).items():
            if status.startswith("2") and kind == "application/json" and content.get("schema"):
                told = resolved(content["schema"])
                assert has_example(told) or path in ("/healthz", "/readyz"), "what comes out"
