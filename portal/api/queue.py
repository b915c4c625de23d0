"""The queue: what moves, what waits at which place, and what each waits for."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.domain.states import RolloutState
from deployments.models import Rollout
from deployments.reads import queue
from portal.api.environments import EnvironmentRefOut
from portal.api.rollouts import PLACE_HELP
from portal.api.shapes import Out, RefOut
from portal.api.targets import ReleaseRefOut
from portal.api.views import ApiView


class QueuedRolloutOut(Out):
    id = serializers.UUIDField()
    service = RefOut()
    release = ReleaseRefOut()
    priority = serializers.ChoiceField(choices=Rollout.Priority.labels, source="get_priority_display")
    state = serializers.ChoiceField(choices=[state.value for state in RolloutState])
    requested_by = serializers.CharField()


class WaiterOut(Out):
    place = serializers.IntegerField(source="place.place", help_text=PLACE_HELP["place"])
    blocked_by = serializers.CharField(
        source="place.blocked_by",
        help_text=f"{PLACE_HELP['blocked_by']} Of another team's rollout only `environment` and `all` are "
        "told.",
    )
    limit = serializers.IntegerField(source="place.limit", help_text=PLACE_HELP["limit"])
    estimate = serializers.DateTimeField(
        source="place.estimate", allow_null=True, help_text=PLACE_HELP["estimate"]
    )
    since = serializers.DateTimeField(allow_null=True, help_text="Null where it is another team's.")
    rollout = QueuedRolloutOut(allow_null=True, help_text="Null where it is another team's.")


class EnvironmentQueueOut(Out):
    environment = EnvironmentRefOut()
    max_active = serializers.IntegerField(source="environment.max_active", allow_null=True)
    moving = QueuedRolloutOut(many=True, help_text="The first hundred that you may see, oldest first.")
    moving_visible = serializers.IntegerField(help_text="How many of those that move you may see.")
    moving_total = serializers.IntegerField(help_text="With those that you may not see.")
    waiting = WaiterOut(
        many=True,
        help_text="The first hundred, and the first hundred that you may see, in the order in which they "
        "start.",
    )
    waiting_total = serializers.IntegerField()


class QueueOut(Out):
    environments = EnvironmentQueueOut(many=True)


class Queue(ApiView):
    serializer_class = QueueOut

    @extend_schema(responses=QueueOut)
    def get(self, request: Request) -> Response:
        """What moves and what waits, by environment. Other teams' rollouts count and have no name."""
        return Response(QueueOut({"environments": queue.by_environment(self.actor)}).data)
