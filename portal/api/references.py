"""An object in a request may be given by id or by name; here it becomes an id."""

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import serializers

from deployments.errors import Invalid
from portal.api.filters import by_reference

M = TypeVar("M", bound=Model)


class ReferenceField(serializers.CharField):
    """Id or name."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "Id or name.")
        super().__init__(max_length=200, **kwargs)


def find(rows: QuerySet[M], text: str, *, field: str, remedy: str, name_field: str = "name") -> M:
    """The row with this id or name; raises Invalid on `field`, saying what there is and what to do.

    `rows` are those that the actor may see.
    """
    try:
        found = rows.filter(by_reference(text, "", name_field)).first()
    except ValueError:  # the name is a number, and this is none
        found = None
    if found is None:
        names = [str(name) for name in rows.order_by(name_field).values_list(name_field, flat=True)[:10]]
        known = f" Known: {', '.join(names)}." if names else ""
        raise Invalid(**{field: f"There is no “{text}” that you can see.{known} {remedy}"})
    return found
