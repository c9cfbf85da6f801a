"""What the site changes in the pages: links to files outside docs/, and the API reference."""

import json
import re
from pathlib import Path
from typing import Any

from service.http.reference import contents, fragment

DOCS = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")
_HERE = "<!-- reference -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Names files of the repository where the page on a forge links to them."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, target = link.groups()
    file = (DOCS / target).resolve()
    if not file.exists():
        raise FileNotFoundError(f"a page links to {target}, which is not there")
    path = str(file.relative_to(DOCS.parent.resolve()))
    return f"`{path}`" if text.strip("`") in (path, file.name) else f"{text} (`{path}`)"


def on_page_content(html: str, **_: Any) -> str:
    """Puts the API reference, which is made of the OpenAPI document, into its page."""
    if _HERE not in html:
        return html
    document = json.loads((DOCS / "openapi.json").read_text())
    return html.replace(_HERE, contents(document) + fragment(document))
