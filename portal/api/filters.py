"""Filters of lists: what is given must be right, and narrows."""

from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django_filters.filters import BooleanFilter, CharFilter
from django_filters.filterset import FilterSet

__all__ = ["CharFilter", "Filters", "ReferenceFilter", "by_reference", "flag", "is_set", "text"]


class Filters(FilterSet):
    """Base of every list's filters."""


class ReferenceFilter(CharFilter):
    """`?service=orders` or `?service=<id>`; `field_name` is the path of the object, `name_field` its name."""

    def __init__(self, field_name: str, *, name_field: str = "name", **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "Id or name.")
        super().__init__(field_name=field_name, **kwargs)  # type: ignore[no-untyped-call]
        self.name_field = name_field

    def filter(self, qs: QuerySet[Any], value: str) -> QuerySet[Any]:
        return qs.filter(by_reference(value, f"{self.field_name}__", self.name_field)) if value else qs


def text(field_name: str, help_text: str) -> CharFilter:
    return CharFilter(field_name, help_text=help_text)  # type: ignore[no-untyped-call]


def is_set(field_name: str) -> BooleanFilter:
    """Whether a column that may be null has a value."""
    return BooleanFilter(field_name, lookup_expr="isnull", exclude=True)  # type: ignore[no-untyped-call]


def flag(method: str, help_text: str) -> BooleanFilter:
    """True or false, which the filter set's `method` knows how to apply."""
    return BooleanFilter(method=method, help_text=help_text)  # type: ignore[no-untyped-call]


def by_reference(text: str, prefix: str, name_field: str) -> Q:
    """The condition that an object has the id or the name `text`."""
    try:
        return Q(**{f"{prefix}pk": UUID(text)})
    except ValueError:
        return Q(**{f"{prefix}{name_field}": text})
