"""Keyset pages: a list is cut by the last key seen, never by an offset: page 1,000 costs what page 1 does."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db import models

M = TypeVar("M", bound=models.Model)

PAGE_SIZE = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    items: Sequence[M]
    next_before: str = ""
    """Key of the last item, when there are more after it."""


def newest_first(queryset: models.QuerySet[M], before: str = "", size: int = PAGE_SIZE) -> Page[M]:
    """Cut `size` rows that are older than the row with id `before`; ids are UUIDv7 and sort by time.

    A `before` that is no id is taken as none: a mangled link shows the first page.
    """
    queryset = queryset.order_by("-id")
    if before and _is_id(before):
        queryset = queryset.filter(id__lt=before)
    return _cut(list(queryset[: size + 1]), size, "id")


def by_name(queryset: models.QuerySet[M], after: str = "", size: int = PAGE_SIZE) -> Page[M]:
    """Cut `size` rows whose name comes after `after`; the key of the next page is a name."""
    queryset = queryset.order_by("name")
    if after:
        queryset = queryset.filter(name__gt=after)
    return _cut(list(queryset[: size + 1]), size, "name")


def by_number(queryset: models.QuerySet[M], before: str = "", size: int = PAGE_SIZE) -> Page[M]:
    """As `newest_first`, for rows whose id is a number."""
    queryset = queryset.order_by("-id")
    if before.isdecimal() and len(before) < 19:
        queryset = queryset.filter(id__lt=int(before))
    return _cut(list(queryset[: size + 1]), size, "id")


def _cut(rows: list[Any], size: int, key: str) -> Page[Any]:
    more = len(rows) > size
    return Page(items=rows[:size], next_before=str(getattr(rows[size - 1], key)) if more else "")


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
