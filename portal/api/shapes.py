"""What goes in and what comes out: the two kinds of serializer.

An `In` refuses fields that it does not know: a misspelt one must not pass for "not given". An `Out` is
only ever written.
"""

from collections.abc import Mapping
from functools import cached_property, partial
from types import MethodType
from typing import Any

from django.db.models import Model
from drf_spectacular.drainage import set_override
from rest_framework import serializers
from rest_framework.response import Response

MISSING = object()
CALLED = (MethodType, partial)
"""Attributes that are no value, but give it: `get_priority_display` is of the latter kind."""


class In(serializers.Serializer[Any]):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # In the OpenAPI document: TeamIn is TeamRequest, TeamOut is Team.
        set_override(cls, "component_name", cls.__name__.removesuffix("In"))

    @classmethod
    def parse(cls, data: Any, *, partial: bool = False) -> dict[str, Any]:
        """Return the checked values by field; raises ValidationError naming every field that is wrong."""
        shape = cls(data=data, partial=partial)
        shape.is_valid(raise_exception=True)
        return dict(shape.validated_data)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name) for name in set(data) - set(self.fields))
            if unknown:
                known = ", ".join(self.fields) or "none"
                raise serializers.ValidationError(
                    {name: [f"is not a field here. Known: {known}."] for name in unknown}
                )
        return super().to_internal_value(data)


class Out(serializers.Serializer[Any]):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        set_override(cls, "component_name", cls.__name__.removesuffix("Out"))

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """As the library does it, in half the time: fields are found once, and attributes read plainly."""
        found: dict[str, Any] = {}
        is_mapping = isinstance(instance, Mapping)
        for name, source, field in self._fields_out:
            if is_mapping or not source:
                value = field.get_attribute(instance)
            else:
                value = getattr(instance, source, MISSING)
                if value is MISSING:
                    value = field.get_attribute(instance)  # null, or an error that says what is missing where
                elif isinstance(value, CALLED):
                    value = value()
            found[name] = None if value is None else field.to_representation(value)
        return found

    @cached_property
    def _fields_out(self) -> list[tuple[str, str, Any]]:
        """Name, the attribute that has the value ("" where there is more to it), and the field."""
        return [
            (name, field.source or "" if len(field.source_attrs) == 1 else "", field)
            for name, field in self.fields.items()
        ]

    @classmethod
    def response(cls, row: Model, *, status: int = 200, etag: int | None = None) -> Response:
        """The answer that shows `row`."""
        headers = {"ETag": f'"{etag}"'} if etag is not None else {}
        return Response(cls(row).data, status=status, headers=headers)

    @classmethod
    def prepared(cls, rows: list[Any]) -> list[Any]:
        """Give rows of a page what the shape shows beside their columns, in a constant number of queries."""
        return rows

    @classmethod
    def many_of(cls, rows: list[Any]) -> Any:
        return cls(cls.prepared(rows), many=True).data


class RefOut(Out):
    """Another object, by what people and programs call it."""

    id = serializers.UUIDField()
    name = serializers.CharField()


class ReasonIn(In):
    reason = serializers.CharField(max_length=500, help_text="Why; it stands in the audit log.")
