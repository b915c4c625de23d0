"""What every view of the API shares: an actor, bounded bodies, visible rows, strict query parameters."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from django_filters.rest_framework.backends import DjangoFilterBackend
from rest_framework.generics import GenericAPIView
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import Invalid, NotFound
from portal.accounts.actors import actor_of_request
from portal.api import pagination, parsers
from portal.api.shapes import Out


class ApiView(GenericAPIView[Any]):
    """A view about one noun. `queryset` and `serializer_class` say what it shows."""

    parser_classes: Any = (parsers.JSONParser,)
    pagination_class: Any = None
    filter_backends: Any = ()
    max_body_bytes: ClassVar[int] = parsers.MAX_BODY_BYTES
    """0: the view reads the body itself, in chunks."""
    actor: Actor

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if self.max_body_bytes:
            # Before anything reads it: the CSRF check of a session does.
            parsers.check_length(request._request, self.max_body_bytes)
            _ = request._request.body
        super().initial(request, *args, **kwargs)
        self.actor = actor_of_request(request)

    def visible(self) -> QuerySet[Any]:
        return access.visible(self.actor, self.get_queryset())


class ListView(ListModelMixin, ApiView):
    """GET gives the rows that the actor may see, in pages."""

    pagination_class = pagination.NewestFirst
    filter_backends = (DjangoFilterBackend,)
    filterset_class: ClassVar[Any] = None

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Those that you may see, newest first, in pages."""
        self.check_parameters(request)
        rows = self.paginate_queryset(self.filter_queryset(self.visible()))
        shape: type[Out] = self.serializer_class  # type: ignore[assignment]
        return self.get_paginated_response(shape.many_of(list(rows or [])))

    def check_parameters(self, request: Request) -> None:
        """A misspelt filter must not give everything."""
        known = set(pagination.keys(self.pagination_class) | self.own_parameters())
        if self.filterset_class is not None:
            known |= set(self.filterset_class.base_filters)
        if unknown := sorted(set(request.query_params) - known):
            raise Invalid(
                **{name: f"is not a filter here. Known: {', '.join(sorted(known))}." for name in unknown}
            )

    def own_parameters(self) -> frozenset[str]:
        """Query parameters that the view reads itself."""
        return frozenset()


class DetailView(ApiView):
    """GET gives one row, by id or whatever `lookup` is called in the path."""

    verb: ClassVar[str]
    lookup: ClassVar[str] = "id"

    def row(self) -> Any:
        return access.get(
            self.actor, self.verb, self.get_queryset(), **{self.lookup: self.kwargs[self.lookup]}
        )

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        shape: type[Out] = self.serializer_class  # type: ignore[assignment]
        return shape.response(self.row())


class NowhereView(ApiView):
    """An address that does not exist answers as an object that does not."""

    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound
