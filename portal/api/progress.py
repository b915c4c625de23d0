"""What is inside one rollout: its events, its tasks, its targets."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.domain.states import TargetState, TaskState
from deployments.errors import Invalid
from deployments.models import Event, Rollout, RolloutTarget, Task
from portal.api import pagination
from portal.api.filters import Filters
from portal.api.shapes import Out, RefOut
from portal.api.targets import ReleaseRefOut
from portal.api.views import DetailView, ListView


class EventOut(Out):
    number = serializers.IntegerField(help_text="1, 2, 3, ... within the rollout, without gaps.")
    at = serializers.DateTimeField()
    kind = serializers.CharField()
    data = serializers.DictField()  # type: ignore[assignment]  # its name on the wire


class TaskOut(Out):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=Task.Kind.choices)
    state = serializers.ChoiceField(choices=[state.value for state in TaskState])
    target = RefOut()
    agent = RefOut()
    release = ReleaseRefOut(allow_null=True)
    attempt = serializers.IntegerField()
    fence = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    sent_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    error_code = serializers.CharField()
    error = serializers.CharField()
    log_tail = serializers.ListField(
        child=serializers.CharField(), help_text="The service's last lines, where an activation failed."
    )


class ProgressOut(Out):
    id = serializers.UUIDField(source="target_id")
    name = serializers.CharField(source="target.name")
    region = serializers.CharField(source="target.region.name")
    batch = serializers.IntegerField(source="batch.position")
    position = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[state.value for state in TargetState])
    state_since = serializers.DateTimeField()
    attempts = serializers.IntegerField()
    previous_release = ReleaseRefOut(allow_null=True)
    error_code = serializers.CharField()
    error = serializers.CharField()
    log_tail = serializers.ListField(child=serializers.CharField())


class PlannedBatchOut(Out):
    targets = serializers.ListField(child=serializers.UUIDField(), help_text="Targets, in order.")


class PlannedWaveOut(Out):
    name = serializers.CharField()
    batches = PlannedBatchOut(many=True)


class PlanOut(Out):
    """What was decided before the start, and never changes; `digest` names all the rest."""

    digest = serializers.CharField()
    service = serializers.CharField(source="body.service")
    environment = serializers.CharField(source="body.environment")
    release = serializers.CharField(source="body.release")
    artifact_digest = serializers.CharField(source="body.artifact_digest")
    config_digest = serializers.CharField(source="body.config_digest")
    kind = serializers.CharField(source="body.kind")
    strategy = serializers.CharField(source="body.strategy")
    params = serializers.DictField(source="body.params", help_text="With every default filled in.")
    waves = PlannedWaveOut(many=True, source="body.waves")


class RolloutPlan(DetailView):
    queryset = Rollout.objects.select_related("service__team", "plan")
    serializer_class = PlanOut
    verb = "rollout.view"

    def get(self, request: Request, id: UUID) -> Response:
        return PlanOut.response(self.row().plan)


class _OfRollout(ListView):
    """Rows of one rollout; who may not see the rollout gets what a missing one gives."""

    def visible(self) -> QuerySet[Any]:
        rollout = access.get(self.actor, "rollout.view", Rollout.objects.all(), id=self.kwargs["id"])
        return self.get_queryset().filter(rollout=rollout)


class RolloutEvents(_OfRollout):
    queryset = Event.objects.all()
    serializer_class = EventOut
    pagination_class = pagination.ByNumber

    @extend_schema(
        parameters=[OpenApiParameter("after", int, description="Only events with a higher number.")]
    )
    def get(self, request: Request, id: UUID) -> Response:
        """Oldest first. A reader that has seen number N asks for `after=N`."""
        return super().get(request, id)

    def visible(self) -> QuerySet[Any]:
        after = self.request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 9:
            raise Invalid(after="must be the number of an event")
        return super().visible().filter(number__gt=int(after))

    def own_parameters(self) -> frozenset[str]:
        return frozenset({"after"})


class TaskFilter(Filters):
    class Meta:
        model = Task
        fields = ("kind", "state", "target")


class RolloutTasks(_OfRollout):
    queryset = Task.objects.select_related("target", "agent", "release")
    serializer_class = TaskOut
    filterset_class = TaskFilter


class ProgressFilter(Filters):
    class Meta:
        model = RolloutTarget
        fields = ("state",)


class RolloutTargets(_OfRollout):
    queryset = RolloutTarget.objects.select_related("target__region", "batch", "previous_release")
    serializer_class = ProgressOut
    filterset_class = ProgressFilter
    pagination_class = pagination.ByPosition
