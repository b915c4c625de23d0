"""Environments and their regions."""

from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import Environment, Region
from deployments.services.catalog import change_environment, create_environment, create_region
from portal.api.filters import Filters, ReferenceFilter
from portal.api.idempotency import idempotent
from portal.api.preconditions import if_version, unless_known
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


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "Two at once, and a person decides", {"max_active": 2, "strategy": {"on_failure": "pause"}}
        )
    ]
)
class EnvironmentChangeIn(In):
    strategy = serializers.DictField(
        required=False,
        help_text='Parameters that hold for every rollout here, such as `{"on_failure": "pause"}`; the '
        "service and the request stand over them.",
    )
    max_active = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="Rollouts that may move here at once, the rest waits in the queue; null: no limit.",
    )
    on_drift = serializers.ChoiceField(
        required=False,
        choices=Environment.OnDrift.choices,
        help_text="Whether a target that runs something else than it should is only shown, or put right.",
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
    strategy = serializers.DictField()
    max_active = serializers.IntegerField(allow_null=True)
    on_drift = serializers.ChoiceField(choices=Environment.OnDrift.choices)
    version = serializers.IntegerField(help_text="Counts changes; the ETag.")
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
        return EnvironmentOut.response(environment, status=201, etag=environment.version)


class EnvironmentDetail(DetailView):
    queryset = Environment.objects.prefetch_related("regions")
    serializer_class = EnvironmentOut
    verb = "environment.view"

    def get(self, request: Request, id: UUID) -> Response:
        environment = self.row()
        return unless_known(request, EnvironmentOut.response(environment, etag=environment.version))

    @extend_schema(request=EnvironmentChangeIn, responses=EnvironmentOut)
    def patch(self, request: Request, id: UUID) -> Response:
        """Change what is given; with If-Match only where nobody changed it in the meantime."""
        environment = change_environment(
            actor=self.actor,
            environment_id=id,
            if_version=if_version(request),
            **EnvironmentChangeIn.parse(request.data),
        )
        return EnvironmentOut.response(environment, etag=environment.version)


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
