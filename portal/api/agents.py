"""Agents, and the join tokens that let them in."""

from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.models import Agent, JoinToken
from deployments.services.agents import create_join_token, revoke_agent
from portal.api.filters import Filters, is_set
from portal.api.idempotency import idempotent
from portal.api.shapes import In, Out, ReasonIn, RefOut
from portal.api.views import DetailView, ListView


class AgentOut(Out):
    id = serializers.UUIDField()
    name = serializers.CharField()
    hostname = serializers.CharField()
    software = serializers.CharField()
    is_connected = serializers.SerializerMethodField()
    is_silent = serializers.SerializerMethodField(help_text="Whether it missed three heartbeats.")
    connected_at = serializers.DateTimeField(allow_null=True)
    last_seen_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def get_is_connected(self, agent: Agent) -> bool:
        return bool(agent.connected_to)

    def get_is_silent(self, agent: Agent) -> bool:
        return agent.is_silent(timezone.now(), settings.SLIPWAY.heartbeat_seconds)


class AgentFilter(Filters):
    revoked = is_set("revoked_at")

    class Meta:
        model = Agent
        fields = ("name",)


class AgentList(ListView):
    queryset = Agent.objects.all()
    serializer_class = AgentOut
    filterset_class = AgentFilter


class AgentDetail(DetailView):
    queryset = Agent.objects.all()
    serializer_class = AgentOut
    verb = "agent.view"


class AgentRevoke(DetailView):
    queryset = Agent.objects.all()
    serializer_class = AgentOut
    verb = "agent.view"
    http_method_names = ("post", "options")

    @extend_schema(request=ReasonIn, responses=AgentOut)
    @idempotent()
    def post(self, request: Request, id: UUID) -> Response:
        """Refuse everything that this agent says or asks from now on."""
        agent = revoke_agent(actor=self.actor, agent_id=id, **ReasonIn.parse(request.data))
        return AgentOut.response(agent)


@extend_schema_serializer(
    examples=[OpenApiExample("For one host", {"agent_name": "host-7", "targets": [], "ttl_seconds": 3600})]
)
class JoinTokenIn(In):
    agent_name = serializers.CharField(max_length=63)
    targets = serializers.ListField(
        child=serializers.UUIDField(),
        default=list,
        max_length=10_000,
        help_text="Ids of the targets that the new agent will serve.",
    )
    ttl_seconds = serializers.IntegerField(default=3600)


class JoinTokenOut(Out):
    id = serializers.UUIDField()
    agent_name = serializers.CharField()
    targets = serializers.ListField(child=serializers.UUIDField(), source="target_ids")
    expires_at = serializers.DateTimeField()
    used_at = serializers.DateTimeField(allow_null=True)
    used_by = RefOut(allow_null=True)
    created_at = serializers.DateTimeField()


class NewJoinTokenOut(JoinTokenOut):
    join_token = serializers.SerializerMethodField(
        help_text="Shown this once: start the agent with it. Null when the answer is a repetition."
    )

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_join_token(self, token: JoinToken) -> str:
        return str(self.context["secret"])


class JoinTokenFilter(Filters):
    used = is_set("used_at")

    class Meta:
        model = JoinToken
        fields = ("agent_name",)


class JoinTokenList(ListView):
    """Administrators only."""

    queryset = JoinToken.objects.select_related("used_by")
    serializer_class = JoinTokenOut
    filterset_class = JoinTokenFilter

    @extend_schema(request=JoinTokenIn, responses={201: NewJoinTokenOut})
    @idempotent(secret_fields=("join_token",))
    def post(self, request: Request) -> Response:
        given = JoinTokenIn.parse(request.data)
        token, secret = create_join_token(
            actor=self.actor,
            agent_name=given["agent_name"],
            target_ids=given["targets"],
            ttl_seconds=given["ttl_seconds"],
        )
        return Response(NewJoinTokenOut(token, context={"secret": secret}).data, status=201)


class JoinTokenDetail(DetailView):
    queryset = JoinToken.objects.select_related("used_by")
    serializer_class = JoinTokenOut
    verb = "agent.enrol"
