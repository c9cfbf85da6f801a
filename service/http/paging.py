"""Lists in pages."""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=1000, description="items of a page")]
Cursor = Annotated[str | None, Query(description="the `cursor` of the page before")]


class PageOut(BaseModel, Generic[T]):
    """`cursor` is null on the last page."""

    items: list[T]
    cursor: str | None
