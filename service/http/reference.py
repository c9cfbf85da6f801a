"""The API reference as HTML without script, made of the OpenAPI document.

`/docs` serves it, and the documentation's site shows it. A page without script needs no assets of
others, works offline, and cannot read what the console keeps in the browser.
"""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

_URL = "http://localhost:8000"
_KEY = "$KEY"
_CODE = re.compile(r"`([^`]+)`")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} API</title>
<link rel="icon" href="console/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="console/reference.css">
</head>
<body>
<header><h1>{title} API {version}</h1>
<p>{summary}. The same as a document for generators: <a href="openapi.json">openapi.json</a>.</p>
</header>
<nav aria-label="Calls">{contents}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def page(document: Json) -> str:
    """The whole page that `/docs` answers with.

    Args:
        document: an OpenAPI document.

    Returns:
        HTML with no script and no absolute address in it.
    """
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        summary=escape(info["summary"]),
        contents=contents(document),
        body=fragment(document),
    )


def contents(document: Json) -> str:
    """A list of the calls by their tags, with links into `fragment`.

    Args:
        document: an OpenAPI document.

    Returns:
        HTML that goes into a page.
    """
    groups = "".join(_links(tag["name"], calls) for tag, calls in _by_tag(document))
    return f"<ul>{groups}</ul>"


def fragment(document: Json) -> str:
    """Each call under its tag, and what a refusal looks like.

    Args:
        document: an OpenAPI document.

    Returns:
        HTML that goes into a page.
    """
    parts = [_SIGN_IN]
    for tag, calls in _by_tag(document):
        parts.append(f'<h2 id="{_tag_anchor(tag["name"])}">{escape(tag["name"].capitalize())}</h2>')
        parts.append(_prose(tag.get("description", "")))
        parts += [_call(document, method, path, call) for method, path, call in calls]
    parts.append(_refusals(document))
    return "\n".join(part for part in parts if part)


_SIGN_IN = f"""<p>Send the tenant's key with each call: <code>Authorization: Bearer {_KEY}</code>.
Calls on tenants take the admin key. In the examples, <code>{_KEY}</code> is the variable that
holds it, and <code>{_URL}</code> stands for the server. Bodies and answers are JSON
unless a call says otherwise.</p>"""

Call = tuple[str, str, Json]


def _by_tag(document: Json) -> list[tuple[Json, list[Call]]]:
    calls: list[Call] = [
        (method, path, call)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    return [
        (tag, [found for found in calls if found[2]["tags"] == [tag["name"]]])
        for tag in document["tags"]
    ]


def _links(tag: str, calls: list[Call]) -> str:
    links = "".join(
        f'<li><a href="#{_anchor(call["operationId"])}">{escape(call["summary"])}</a></li>'
        for _, _, call in calls
    )
    name = escape(tag.capitalize())
    return f'<li><a href="#{_tag_anchor(tag)}">{name}</a><ul>{links}</ul></li>'


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _tag_anchor(tag: str) -> str:
    return f"calls-{_anchor(tag)}"  # a call may have its tag's name


def _prose(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "".join(f"<p>{_inline(part)}</p>" for part in paragraphs if part)


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def _call(document: Json, method: str, path: str, call: Json) -> str:
    anchor = _anchor(call["operationId"])
    parts = [
        f'<section><h3 id="{anchor}">{escape(call["summary"])}</h3>',
        f"<p><code>{method.upper()} {escape(path)}</code></p>",
        _prose(call["description"]),
        _parameters(call),
        "<h4>Request</h4>",
        _pre(curl(document, method, path)),
        *_answers(document, call),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _parameters(call: Json) -> str:
    rows = "".join(_parameter(given) for given in call.get("parameters", []))
    if not rows:
        return ""
    head = "<tr><th>parameter</th><th>in</th><th>what it is</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _parameter(given: Json) -> str:
    says = _inline(given.get("description") or given["schema"].get("description", ""))
    if "default" in given["schema"] and given["schema"]["default"] is not None:
        says += f" (default {escape(str(given['schema']['default']))})"
    cells = (f"<code>{escape(given['name'])}</code>", given["in"], says)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _answers(document: Json, call: Json) -> Iterator[str]:
    for status, response in call["responses"].items():
        if not status.startswith("2"):
            continue
        contents = response.get("content", {})
        if not contents:
            says = "Without a body." if status == "204" else f"{response['description']}."
            yield f"<h4>Answer {status}</h4>{_prose(says)}"
        for kind, content in contents.items():
            yield f"<h4>Answer {status}, {escape(kind)}</h4>"
            yield _answer(document, response, content)


def _answer(document: Json, response: Json, content: Json) -> str:
    schema = content.get("schema", {})
    if schema.get("format") == "binary":
        return _prose(f"{response['description']}.")
    example = content.get("example", example_of(document, schema))
    if isinstance(example, str):
        return _pre(example)
    return _pre(json.dumps(example, indent=2, ensure_ascii=False))


def _refusals(document: Json) -> str:
    example = example_of(document, {"$ref": "#/components/schemas/ProblemOut"})
    return (
        '<h2 id="refusals">Refusals</h2>'
        "<p>Every refusal is a problem document (RFC 9457), <code>application/problem+json</code>. "
        "<code>errors</code> names the fields. 429 and 503 say in <code>Retry-After</code> when to "
        "come again. <code>x-request-id</code> finds the request in the server's log.</p>"
        + _pre(json.dumps(example, indent=2))
    )


def _pre(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text, quote=False)}</code></pre>'


def curl(document: Json, method: str, path: str) -> str:
    """A call as a line of curl, with the examples of the document.

    Args:
        document: an OpenAPI document.
        method: of the call, in small letters.
        path: as the document has it, with names in braces.

    Returns:
        Lines for a POSIX shell that has the key in `$KEY`.
    """
    call = document["paths"][path][method]
    for given in call.get("parameters", []):
        if given["in"] == "path":
            value = str(example_of(document, given["schema"]))
            path = path.replace(f"{{{given['name']}}}", value)
    parts = ["curl" if method == "get" else f"curl -X {method.upper()}", _URL + path]
    if call.get("security"):
        parts.append(f'-H "Authorization: Bearer {_KEY}"')
    parts += _body(document, call)
    return " \\\n  ".join(parts)


def _body(document: Json, call: Json) -> list[str]:
    contents = call.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in contents:
        form = example_of(document, contents["multipart/form-data"]["schema"])
        return [f"-F {_quoted(f'{name}={value}')}" for name, value in _fields(form)]
    if "application/json" in contents:
        body = example_of(document, contents["application/json"]["schema"])
        text = json.dumps(body, ensure_ascii=False)
        return ["-H 'Content-Type: application/json'", f"-d {_quoted(text)}"]
    return []


def _fields(form: Json) -> Iterator[tuple[str, str]]:
    """A form's fields; a list is its field repeated."""
    for name, value in form.items():
        for item in value if isinstance(value, list) else [value]:
            yield name, str(item)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def example_of(document: Json, schema: Json) -> Any:
    """An example of a schema: its own, or one put together of its parts' examples.

    Args:
        document: the OpenAPI document that `schema` refers to.
        schema: a JSON schema.

    Returns:
        The example; None where neither the schema nor a part of it has one. Of an object, only
        the properties that have one.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return example_of(document, document["components"]["schemas"][name])
    own = [*schema.get("examples", []), *([schema["example"]] if "example" in schema else [])]
    choices = (example_of(document, choice) for choice in schema.get("anyOf", []))
    found = [*own, *(choice for choice in choices if choice is not None)]
    return found[0] if found else _of_parts(document, schema)


def _of_parts(document: Json, schema: Json) -> Any:
    required = schema.get("required", [])
    parts = {k: example_of(document, v) for k, v in schema.get("properties", {}).items()}
    if any(value is not None for value in parts.values()):
        return {k: v for k, v in parts.items() if v is not None or k in required}
    item = example_of(document, schema["items"]) if "items" in schema else None
    return None if item is None else [item]
