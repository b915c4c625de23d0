"""Targets: the instances of a service."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.domain.actor import Actor
from deployments.models import Agent, Environment, Region, Service, Target
from deployments.reads import drift
from deployments.services.catalog import change_target, create_target
from portal.api.environments import EnvironmentRefOut, RegionRefOut
from portal.api.filters import Filters, ReferenceFilter, flag
from portal.api.idempotency import idempotent
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out, RefOut
from portal.api.views import DetailView, ListView

VARIABLES_HELP = "Flat strings, `${target.NAME}` in a configuration."
ASK = "Ask an administrator for a join token that names the target."


class TargetChangeIn(In):
    agent = ReferenceField(required=False, allow_null=True, help_text="Id or name; null: no agent.")
    variables = serializers.DictField(required=False, help_text=VARIABLES_HELP)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "One instance",
            {
                "service": "orders",
                "environment": "prod",
                "region": "eu",
                "name": "orders-01",
                "agent": "agent-1",
                "variables": {"port": "9001"},
            },
        )
    ]
)
class TargetIn(TargetChangeIn):
    service = ReferenceField()
    environment = ReferenceField()
    region = ReferenceField()
    name = serializers.CharField(max_length=63)


class ReleaseRefOut(Out):
    id = serializers.UUIDField()
    version = serializers.CharField()
    commit_sha = serializers.CharField()


class DriftOut(Out):
    """What runs is not what was sent there."""

    cause = serializers.CharField(source="drift", help_text="`release`, `process`, `files` or `config`.")
    since = serializers.DateTimeField(source="drift_since")
    sentence = serializers.SerializerMethodField()

    def get_sentence(self, target: Target) -> str:
        return drift.sentence(target)


DRIFT = DriftOut()
"""One for all rows: to make a serializer costs more than to use it."""


class TargetOut(Out):
    id = serializers.UUIDField()
    name = serializers.CharField()
    service = RefOut()
    environment = EnvironmentRefOut(source="region.environment")
    region = RegionRefOut()
    agent = RefOut(allow_null=True)
    variables = serializers.DictField()
    release = ReleaseRefOut(allow_null=True, help_text="Last sent here to run.")
    release_since = serializers.DateTimeField(allow_null=True)
    stable_release = ReleaseRefOut(allow_null=True, help_text="What a rollback goes back to.")
    health = serializers.ChoiceField(choices=Target.Health.choices)
    drift = serializers.SerializerMethodField(help_text="How what runs differs from what was sent; or null.")
    reported = serializers.DictField(help_text="What really runs, as the agent last said.")
    reported_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    @extend_schema_field(DriftOut(allow_null=True))
    def get_drift(self, target: Target) -> Any:
        return DRIFT.to_representation(target) if target.drift else None


class TargetFilter(Filters):
    service = ReferenceFilter("service")
    environment = ReferenceFilter("region__environment")
    region = ReferenceFilter("region")
    agent = ReferenceFilter("agent")
    release = ReferenceFilter("release", name_field="version", help_text="Id or version.")

    drifted = flag("only_drifted", "Whether something else runs there than what was sent.")

    class Meta:
        model = Target
        fields = ("name", "health")

    def only_drifted(self, rows: QuerySet[Target], name: str, value: bool) -> QuerySet[Target]:
        return rows.exclude(drift="") if value else rows.filter(drift="")


TARGETS = Target.objects.select_related(
    "service__team", "region__environment", "agent", "release", "stable_release"
)


class TargetList(ListView):
    queryset = TARGETS
    serializer_class = TargetOut
    filterset_class = TargetFilter

    @extend_schema(request=TargetIn, responses={201: TargetOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        given = TargetIn.parse(request.data)
        services = access.visible(self.actor, Service.objects.all())
        service = find(services, given["service"], field="service", remedy="Create it first.")
        environment = find(
            Environment.objects.all(), given["environment"], field="environment", remedy="Create it first."
        )
        regions = Region.objects.filter(environment=environment)
        region = find(regions, given["region"], field="region", remedy=f"Create it in {environment} first.")
        target = create_target(
            actor=self.actor,
            service_id=service.pk,
            region_id=region.pk,
            name=given["name"],
            agent_id=_agent_id(self.actor, given.get("agent")),
            variables=given.get("variables"),
        )
        return TargetOut.response(target, status=201)


class TargetDetail(DetailView):
    queryset = TARGETS
    serializer_class = TargetOut
    verb = "target.view"

    @extend_schema(request=TargetChangeIn, responses=TargetOut)
    def patch(self, request: Request, id: UUID) -> Response:
        """Give the target another agent or other variables; refused while a rollout moves it."""
        given = TargetChangeIn.parse(request.data)
        if "agent" in given:
            self.row()
            given["agent_id"] = _agent_id(self.actor, given.pop("agent"))
        return TargetOut.response(change_target(actor=self.actor, target_id=id, **given))


def _agent_id(actor: Actor, text: str | None) -> UUID | None:
    if text is None:
        return None
    agents = access.visible(actor, Agent.objects.all())
    return find(agents, text, field="agent", remedy=ASK).pk
