"""Environments and their regions."""

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import Environment, Region
from deployments.services.catalog import create_environment, create_region
from portal.api.filters import Filters, ReferenceFilter
from portal.api.idempotency import idempotent
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out
from portal.api.views import DetailView, ListView


@extend_schema_serializer(
    examples=[
        OpenApiExample("Three regions", {"name": "prod", "tier": "prod", "regions": ["eu", "us", "ap"]})
    ]
)
class EnvironmentIn(In):
    name = serializers.CharField(max_length=63)
    tier = serializers.ChoiceField(choices=Environment.Tier.choices)
    regions = serializers.ListField(
        child=serializers.CharField(max_length=63),
        default=list,
        max_length=100,
        help_text="Names, in the order in which a strategy by region takes them.",
    )


class RegionRefOut(Out):
    id = serializers.UUIDField()
    name = serializers.CharField()
    position = serializers.IntegerField()


class EnvironmentRefOut(Out):
    id = serializers.UUIDField()
    name = serializers.CharField()
    tier = serializers.ChoiceField(choices=Environment.Tier.choices)


class EnvironmentOut(EnvironmentRefOut):
    regions = RegionRefOut(many=True, source="regions.all")
    created_at = serializers.DateTimeField()


class EnvironmentFilter(Filters):
    class Meta:
        model = Environment
        fields = ("name", "tier")


class EnvironmentList(ListView):
    queryset = Environment.objects.prefetch_related("regions")
    serializer_class = EnvironmentOut
    filterset_class = EnvironmentFilter

    @extend_schema(request=EnvironmentIn, responses={201: EnvironmentOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        environment = create_environment(actor=self.actor, **EnvironmentIn.parse(request.data))
        return EnvironmentOut.response(environment, status=201)


class EnvironmentDetail(DetailView):
    queryset = Environment.objects.prefetch_related("regions")
    serializer_class = EnvironmentOut
    verb = "environment.view"


@extend_schema_serializer(
    examples=[OpenApiExample("One more", {"environment": "prod", "name": "sa", "position": 3})]
)
class RegionIn(In):
    environment = ReferenceField()
    name = serializers.CharField(max_length=63)
    position = serializers.IntegerField(min_value=0, max_value=32767, default=0)


class RegionOut(RegionRefOut):
    environment = EnvironmentRefOut()
    created_at = serializers.DateTimeField()


class RegionFilter(Filters):
    environment = ReferenceFilter("environment")

    class Meta:
        model = Region
        fields = ("name",)


class RegionList(ListView):
    queryset = Region.objects.select_related("environment")
    serializer_class = RegionOut
    filterset_class = RegionFilter

    @extend_schema(request=RegionIn, responses={201: RegionOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        given = RegionIn.parse(request.data)
        environments = access.visible(self.actor, Environment.objects.all())
        environment = find(
            environments, given.pop("environment"), field="environment", remedy="Create it first."
        )
        region = create_region(actor=self.actor, environment_id=environment.pk, **given)
        return RegionOut.response(region, status=201)


class RegionDetail(DetailView):
    queryset = Region.objects.select_related("environment")
    serializer_class = RegionOut
    verb = "region.view"
