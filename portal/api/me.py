"""Who asks, and what they may do where."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.models import Membership
from portal.api.shapes import Out, RefOut
from portal.api.views import ApiView


class MyTeamOut(Out):
    team = RefOut()
    role = serializers.ChoiceField(choices=Membership.Role.choices)


class MeOut(Out):
    id = serializers.UUIDField(source="user_id")
    kind = serializers.ChoiceField(choices=["user", "token"])
    name = serializers.CharField()
    is_administrator = serializers.BooleanField(source="is_superuser")
    teams = serializers.SerializerMethodField()

    @extend_schema_field(MyTeamOut(many=True))
    def get_teams(self, _actor: object) -> Any:
        return MyTeamOut(self.context["memberships"], many=True).data


class Me(ApiView):
    serializer_class = MeOut

    @extend_schema(responses=MeOut)
    def get(self, request: Request) -> Response:
        memberships: QuerySet[Membership] = Membership.objects.filter(user=self.actor.user_id)
        context = {"memberships": memberships.select_related("team").order_by("team__name")}
        return Response(MeOut(self.actor, context=context).data)
