"""Services."""

from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import Service, Team
from deployments.services.catalog import change_service, create_service
from portal.api.filters import Filters, ReferenceFilter
from portal.api.idempotency import idempotent
from portal.api.preconditions import if_version, unless_known
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out, RefOut
from portal.api.views import DetailView, ListView

STRATEGY_HELP = '`{"name": "rolling", ...parameters}`; what is left out has the strategy\'s default.'


class ServiceChangeIn(In):
    description = serializers.CharField(max_length=500, allow_blank=True, required=False)
    repository_url = serializers.URLField(max_length=200, allow_blank=True, required=False)
    strategy = serializers.DictField(required=False, help_text=STRATEGY_HELP)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "Four batches",
            {
                "team": "shop",
                "name": "orders",
                "description": "Takes orders",
                "repository_url": "https://git.example/shop/orders",
                "strategy": {"name": "rolling", "batch": "25%", "bake_seconds": 30},
            },
        )
    ]
)
class ServiceIn(ServiceChangeIn):
    team = ReferenceField()
    name = serializers.CharField(max_length=63)


class ServiceOut(Out):
    id = serializers.UUIDField()
    team = RefOut()
    name = serializers.CharField()
    description = serializers.CharField()
    repository_url = serializers.CharField()
    strategy = serializers.DictField()
    version = serializers.IntegerField(help_text="Counts changes; the ETag.")
    created_at = serializers.DateTimeField()


class ServiceFilter(Filters):
    team = ReferenceFilter("team")

    class Meta:
        model = Service
        fields = ("name",)


class ServiceList(ListView):
    queryset = Service.objects.select_related("team")
    serializer_class = ServiceOut
    filterset_class = ServiceFilter

    @extend_schema(request=ServiceIn, responses={201: ServiceOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        given = ServiceIn.parse(request.data)
        teams = access.visible(self.actor, Team.objects.all())
        team = find(teams, given.pop("team"), field="team", remedy="Name a team of yours.")
        service = create_service(actor=self.actor, team_id=team.pk, **given)
        return ServiceOut.response(service, status=201, etag=service.version)


class ServiceDetail(DetailView):
    queryset = Service.objects.select_related("team")
    serializer_class = ServiceOut
    verb = "service.view"

    def get(self, request: Request, id: UUID) -> Response:
        service = self.row()
        return unless_known(request, ServiceOut.response(service, etag=service.version))

    @extend_schema(request=ServiceChangeIn, responses=ServiceOut)
    def patch(self, request: Request, id: UUID) -> Response:
        """Change what is given; with If-Match only where nobody changed it in the meantime."""
        service = change_service(
            actor=self.actor,
            service_id=id,
            if_version=if_version(request),
            **ServiceChangeIn.parse(request.data),
        )
        return ServiceOut.response(service, etag=service.version)
