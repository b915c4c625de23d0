"""Teams and memberships."""

from uuid import UUID

from django.contrib.auth import get_user_model
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import Membership, Team
from deployments.services.catalog import change_team, create_team, remove_membership, set_membership
from portal.api.filters import Filters, ReferenceFilter
from portal.api.idempotency import idempotent
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out, RefOut
from portal.api.views import DetailView, ListView


@extend_schema_serializer(examples=[OpenApiExample("A team", {"name": "shop", "title": "Web shop"})])
class TeamIn(In):
    name = serializers.CharField(max_length=63)
    title = serializers.CharField(max_length=200, allow_blank=True, default="")


class TeamChangeIn(In):
    max_active = serializers.IntegerField(
        allow_null=True, help_text="Rollouts of the team that may move at once; null: no limit."
    )


class TeamOut(Out):
    id = serializers.UUIDField()
    name = serializers.CharField()
    title = serializers.CharField()
    max_active = serializers.IntegerField(
        allow_null=True, help_text="Rollouts of the team that may move at once; null: no limit."
    )
    created_at = serializers.DateTimeField()


class TeamFilter(Filters):
    class Meta:
        model = Team
        fields = ("name",)


class TeamList(ListView):
    queryset = Team.objects.all()
    serializer_class = TeamOut
    filterset_class = TeamFilter

    @extend_schema(request=TeamIn, responses={201: TeamOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        team = create_team(actor=self.actor, **TeamIn.parse(request.data))
        return TeamOut.response(team, status=201)


class TeamDetail(DetailView):
    queryset = Team.objects.all()
    serializer_class = TeamOut
    verb = "team.view"

    @extend_schema(request=TeamChangeIn, responses=TeamOut)
    def patch(self, request: Request, id: UUID) -> Response:
        """Set the limit; for administrators, because it is about what the teams share."""
        team = change_team(actor=self.actor, team_id=id, **TeamChangeIn.parse(request.data))
        return TeamOut.response(team)


class UserOut(Out):
    id = serializers.UUIDField()
    username = serializers.CharField()
    name = serializers.CharField(source="get_full_name")


@extend_schema_serializer(
    examples=[OpenApiExample("Let Ada deploy", {"team": "shop", "user": "ada", "role": "deployer"})]
)
class MembershipIn(In):
    team = ReferenceField()
    user = ReferenceField(help_text="Id or user name.")
    role = serializers.ChoiceField(choices=Membership.Role.choices)


class MembershipOut(Out):
    id = serializers.UUIDField()
    team = RefOut()
    user = UserOut()
    role = serializers.ChoiceField(choices=Membership.Role.choices)
    created_at = serializers.DateTimeField()


class MembershipFilter(Filters):
    team = ReferenceFilter("team")
    user = ReferenceFilter("user", name_field="username")

    class Meta:
        model = Membership
        fields = ("role",)


class MembershipList(ListView):
    queryset = Membership.objects.select_related("team", "user")
    serializer_class = MembershipOut
    filterset_class = MembershipFilter

    @extend_schema(request=MembershipIn, responses={201: MembershipOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        """Give a person a role in a team; a role that they have already is replaced."""
        given = MembershipIn.parse(request.data)
        team = find(
            access.visible(self.actor, Team.objects.all()),
            given["team"],
            field="team",
            remedy="Name a team of yours.",
        )
        access.require(self.actor, "team.manage", team)
        user = _user(given["user"])
        membership = set_membership(actor=self.actor, team_id=team.pk, user_id=user, role=given["role"])
        return MembershipOut.response(membership, status=201)


class MembershipDetail(DetailView):
    queryset = Membership.objects.select_related("team", "user")
    serializer_class = MembershipOut
    verb = "team.view"

    @extend_schema(responses={204: None})
    def delete(self, request: Request, id: UUID) -> Response:
        remove_membership(actor=self.actor, membership_id=id)
        return Response(status=204)


def _user(text: str) -> UUID:
    """Nobody is listed to whoever guesses: only the exact name or id is found."""
    users = get_user_model().objects.filter(is_active=True)
    found = users.filter(username=text).first()
    if found is None:
        empty = users.none() if not _is_id(text) else users.filter(pk=text)
        found = find(empty, text, field="user", remedy="Use the exact user name.", name_field="username")
    return found.pk


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
