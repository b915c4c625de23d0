"""Lists in pages: by cursor, along an indexed column, so that page 1,000 costs what page 1 does."""

from typing import Any

from rest_framework import pagination
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from deployments.errors import Invalid

CURSOR, PAGE_SIZE = "cursor", "page_size"


class NewestFirst(pagination.CursorPagination):
    """`{"results": [...], "next": URL or null, "previous": URL or null}`; ids sort by time."""

    ordering = "-id"
    page_size = 50
    max_page_size = 200
    page_size_query_param = PAGE_SIZE
    cursor_query_param = CURSOR

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        try:
            return super().paginate_queryset(queryset, request, view) or []
        except NotFound:
            raise Invalid(cursor="is not one that a page gave. Start without it.") from None

    def get_page_size(self, request: Request) -> int | None:
        """Raises Invalid where REST framework would quietly take the default."""
        text = request.query_params.get(PAGE_SIZE)
        if text is not None and not (text.isdecimal() and 1 <= int(text[:6]) <= self.max_page_size):
            raise Invalid(page_size=f"must be a whole number between 1 and {self.max_page_size}")
        return super().get_page_size(request)


class ByNumber(NewestFirst):
    """Along a number within the parent: 1, 2, 3, ..."""

    ordering = "number"


class ByPosition(NewestFirst):
    ordering = "position"


def keys(pagination_class: type[pagination.BasePagination] | None) -> frozenset[str]:
    """Query parameters that are the page's, not the filter's."""
    return frozenset({CURSOR, PAGE_SIZE}) if pagination_class else frozenset()
