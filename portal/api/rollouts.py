"""Rollouts: start, steer, and what is known of them."""

from collections.abc import Callable
from typing import Any, ClassVar, get_args
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.domain.states import ACTIVE, BatchState, RolloutState
from deployments.models import Batch, Environment, Release, Rollout, Service
from deployments.reads import queue
from deployments.reads.rollouts import count_targets, waiting_of
from deployments.services import retries, rollbacks
from deployments.services import rollouts as commands
from deployments.services.planning import IfBusy
from portal.api.environments import EnvironmentRefOut
from portal.api.filters import Filters, ReferenceFilter, flag
from portal.api.idempotency import idempotent
from portal.api.preconditions import if_version, unless_known
from portal.api.references import ReferenceField, find
from portal.api.services import STRATEGY_HELP
from portal.api.shapes import In, Out, ReasonIn, RefOut
from portal.api.targets import ReleaseRefOut
from portal.api.views import DetailView, ListView

PATH = "/api/v1/rollouts"
MAX_NAMED = 100_000
EXAMPLE_ID = "0190a1b2-0000-7000-8000-000000000000"


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "By names",
            {"service": "orders", "environment": "prod", "release": "1.1", "reason": "Weekly release"},
        ),
        OpenApiExample(
            "With another strategy",
            {
                "service": "orders",
                "environment": "prod",
                "release": "1.1",
                "strategy": {"name": "rolling", "batch": 1, "bake_seconds": 60},
            },
        ),
        OpenApiExample(
            "A hotfix, as soon as what moves there has ended",
            {
                "service": "orders",
                "environment": "prod",
                "release": "1.1.1",
                "priority": "hotfix",
                "if_busy": "supersede",
            },
        ),
    ]
)
class RolloutIn(In):
    service = ReferenceField()
    environment = ReferenceField()
    release = ReferenceField(help_text="Id or version.")
    strategy = serializers.DictField(
        required=False, allow_null=True, help_text=f"{STRATEGY_HELP} It stands over the service's own."
    )
    reason = serializers.CharField(max_length=500, allow_blank=True, default="")
    priority = serializers.ChoiceField(
        choices=Rollout.Priority.labels,
        default=Rollout.Priority.NORMAL.label,
        help_text="The higher goes first in the queue; waiting half an hour counts as one higher.",
    )
    if_busy = serializers.ChoiceField(
        choices=get_args(IfBusy),
        default="refuse",
        help_text="While another rollout of the service there is not at its end: refuse, queue up behind it, "
        "or queue up and supersede those that wait.",
    )


@extend_schema_serializer(
    examples=[
        OpenApiExample("All that failed", {"reason": "The registry is back"}),
        OpenApiExample("One target", {"reason": "The disk has room again", "targets": [EXAMPLE_ID]}),
    ]
)
class RetryIn(ReasonIn):
    targets = serializers.ListField(
        child=serializers.UUIDField(),
        default=list,
        allow_empty=False,
        max_length=MAX_NAMED,
        help_text="Targets that failed, at least one; without it, all of them.",
    )


@extend_schema_serializer(
    examples=[OpenApiExample("A machine that is away", {"reason": "In repair", "targets": [EXAMPLE_ID]})]
)
class SkipIn(ReasonIn):
    targets = serializers.ListField(
        child=serializers.UUIDField(),
        allow_empty=False,
        max_length=MAX_NAMED,
        help_text="Targets to leave out; what was changed on them stays as it is.",
    )


@extend_schema_serializer(
    examples=[
        OpenApiExample("To the last stable release", {"reason": "Orders fail"}),
        OpenApiExample("To an older one", {"reason": "1.0 has the same fault", "release": "0.9"}),
    ]
)
class RollbackIn(ReasonIn):
    release = ReferenceField(
        required=False,
        help_text="Id or version of an older release that was stable here; without it, the last one. Only "
        "for a rollout that has ended.",
    )


class WaitingOut(Out):
    """What a rollout waits for; only one that has ended waits for nothing."""

    kind = serializers.CharField(
        help_text="`engine`, `queue`, `tasks`, `bake`, `retry`, `capacity`, `person`, `agent` or `fault`."
    )
    subject = serializers.CharField(help_text="While kind and subject stay, it is the same wait.")
    sentence = serializers.CharField()
    who = serializers.CharField(help_text="Who can end the wait.")
    unblock = serializers.ListField(
        child=serializers.CharField(), help_text="Actions that end it: `resume`, `retry`, `cancel`, ..."
    )
    since = serializers.DateTimeField()
    deadline = serializers.DateTimeField(allow_null=True, help_text="When the engine acts by itself.")


PLACE_HELP = {
    "place": "1, 2, 3, ... among those that wait for the environment.",
    "blocked_by": "The limit that leaves no room: `service`, `environment`, `team` or `all`; empty: it is "
    "next.",
    "limit": "How many that limit lets move at once; 0 where none holds it up.",
    "estimate": "When it may start, by what rollouts took there lately.",
}


class PlaceOut(Out):
    place = serializers.IntegerField(help_text=PLACE_HELP["place"])
    waiting = serializers.IntegerField(help_text="How many wait for the environment, this one included.")
    blocked_by = serializers.CharField(help_text=PLACE_HELP["blocked_by"])
    limit = serializers.IntegerField(help_text=PLACE_HELP["limit"])
    estimate = serializers.DateTimeField(allow_null=True, help_text=PLACE_HELP["estimate"])


WAITING, PLACE = WaitingOut(), PlaceOut()
"""One of each for all rows: to make a serializer costs more than to use it."""


class BatchOut(Out):
    position = serializers.IntegerField()
    wave = serializers.CharField(source="wave.name")
    state = serializers.ChoiceField(choices=[state.value for state in BatchState])
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class RolloutOut(Out):
    id = serializers.UUIDField()
    service = RefOut()
    environment = EnvironmentRefOut()
    release = ReleaseRefOut()
    kind = serializers.ChoiceField(choices=Rollout.Kind.choices)
    rolls_back = serializers.UUIDField(source="rolls_back_id", allow_null=True)
    retries = serializers.UUIDField(
        source="retries_id", allow_null=True, help_text="The rollout whose targets are tried again here."
    )
    priority = serializers.ChoiceField(choices=Rollout.Priority.labels, source="get_priority_display")
    state = serializers.ChoiceField(choices=[state.value for state in RolloutState])
    requested_by = serializers.CharField()
    reason = serializers.CharField()
    outcome = serializers.CharField(help_text="Why it ended, or why it stands.")
    waiting_on = serializers.SerializerMethodField()
    queue = serializers.SerializerMethodField(help_text="Its place while it waits for a slot, else null.")
    deadline_at = serializers.DateTimeField(allow_null=True, help_text="By when it has to be done.")
    plan_digest = serializers.CharField(source="plan.digest", default=None, allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    event_count = serializers.IntegerField(help_text="Number of the newest event; the ETag.")
    batches = BatchOut(many=True, source="batches.all")
    targets = serializers.SerializerMethodField(help_text="Number of targets by state.")
    links = serializers.SerializerMethodField()

    @extend_schema_field(WaitingOut(allow_null=True))
    def get_waiting_on(self, rollout: Rollout) -> Any:
        waiting = waiting_of(rollout)
        return WAITING.to_representation(waiting) if waiting else None

    @extend_schema_field(PlaceOut(allow_null=True))
    def get_queue(self, rollout: Rollout) -> Any:
        place = queue.places([rollout]).get(rollout.pk) if not hasattr(rollout, "place") else rollout.place
        return PLACE.to_representation(place) if place else None

    def get_targets(self, rollout: Rollout) -> dict[str, int]:
        counts: dict[str, int] | None = getattr(rollout, "target_counts", None)
        return counts if counts is not None else count_targets([rollout.pk]).get(rollout.pk, {})

    def get_links(self, rollout: Rollout) -> dict[str, str]:
        path = f"{PATH}/{rollout.pk}"
        return {
            "self": path,
            "plan": f"{path}/plan",
            "events": f"{path}/events",
            "tasks": f"{path}/tasks",
            "targets": f"{path}/targets",
            "page": f"/rollouts/{rollout.pk}/",
        }

    @classmethod
    def prepared(cls, rows: list[Any]) -> list[Any]:
        counts = count_targets([rollout.pk for rollout in rows])
        found = queue.places(rows)
        for rollout in rows:
            rollout.target_counts = counts.get(rollout.pk, {})
            rollout.place = found.get(rollout.pk)
        return rows


class RolloutFilter(Filters):
    service = ReferenceFilter("service")
    environment = ReferenceFilter("environment")
    release = ReferenceFilter("release", name_field="version", help_text="Id or version.")
    active = flag("only_active", "Whether it is not at its end.")

    class Meta:
        model = Rollout
        fields = ("state", "kind")

    def only_active(self, rows: QuerySet[Rollout], name: str, value: bool) -> QuerySet[Rollout]:
        return rows.filter(state__in=ACTIVE) if value else rows.exclude(state__in=ACTIVE)


ROLLOUTS = Rollout.objects.select_related("service__team", "environment", "release", "plan").prefetch_related(
    Prefetch("batches", Batch.objects.select_related("wave"))
)


class RolloutList(ListView):
    queryset = ROLLOUTS
    serializer_class = RolloutOut
    filterset_class = RolloutFilter

    @extend_schema(request=RolloutIn, responses={201: RolloutOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        """Start a rollout. It answers at once; what happens then stands in its events."""
        given = RolloutIn.parse(request.data)
        services = access.visible(self.actor, Service.objects.all())
        service = find(services, given["service"], field="service", remedy="Create it first.")
        environment = find(
            Environment.objects.all(),
            given["environment"],
            field="environment",
            remedy="Name one of these, or ask an administrator to create it.",
        )
        release = find(
            Release.objects.filter(service=service).order_by("-id"),
            given["release"],
            field="release",
            remedy="POST it to /api/v1/releases first.",
            name_field="version",
        )
        rollout = commands.start_rollout(
            actor=self.actor,
            service_id=service.pk,
            environment_id=environment.pk,
            release_id=release.pk,
            strategy=given.get("strategy"),
            reason=given["reason"],
            priority=Rollout.Priority[given["priority"].upper()],
            if_busy=given["if_busy"],
        )
        return _answer(rollout, status=201)


class RolloutDetail(DetailView):
    queryset = ROLLOUTS
    serializer_class = RolloutOut
    verb = "rollout.view"

    def get(self, request: Request, id: UUID) -> Response:
        rollout = self.row()
        return unless_known(request, RolloutOut.response(rollout, etag=rollout.event_count))


class Steer(DetailView):
    """POST a reason; with If-Match only where nothing happened in the meantime."""

    queryset = ROLLOUTS
    serializer_class = RolloutOut
    verb = "rollout.view"
    http_method_names = ("post", "options")
    command: ClassVar[Callable[..., Rollout]]
    shape: ClassVar[type[In]] = ReasonIn

    @extend_schema(request=ReasonIn, responses=RolloutOut)
    @idempotent()
    def post(self, request: Request, id: UUID) -> Response:
        rollout = type(self).command(
            actor=self.actor,
            rollout_id=id,
            if_version=if_version(request),
            **self.arguments(type(self).shape.parse(request.data)),
        )
        return _answer(rollout)

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the command takes beside the rollout."""
        return given


class Pause(Steer):
    """Start nothing more; what is under way ends."""

    command = commands.pause_rollout


class Resume(Steer):
    """Go on from where it stopped."""

    command = commands.resume_rollout


class Cancel(Steer):
    """End it where it stands."""

    command = commands.cancel_rollout


@extend_schema_view(post=extend_schema(request=RollbackIn))
class RollBack(Steer):
    """Back to the last stable release: the same rollout while it is under way, a new one afterwards.

    The release that it leaves is put on hold.
    """

    command = rollbacks.roll_back_rollout
    shape = RollbackIn

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        text = given.pop("release", None)
        if text is None:
            return given
        rollout = self.row()
        release = find(
            Release.objects.filter(service=rollout.service_id),
            text,
            field="release",
            remedy="Name one that succeeded here, or leave it out.",
            name_field="version",
        )
        return given | {"release_id": release.pk}


@extend_schema_view(post=extend_schema(request=RetryIn))
class Retry(Steer):
    """Try failed targets again, and nothing that succeeded: in the same rollout while it is under way, in a
    new one of the same release afterwards."""

    command = retries.retry_targets
    shape = RetryIn


@extend_schema_view(post=extend_schema(request=SkipIn))
class Skip(Steer):
    """Leave targets out, so that the rollout goes on without them."""

    command = retries.skip_targets
    shape = SkipIn


def _answer(rollout: Rollout, status: int = 200) -> Response:
    """Read it once more: commands go by statements that do not come back to the row in memory."""
    fresh = ROLLOUTS.get(pk=rollout.pk)
    response = RolloutOut.response(fresh, status=status, etag=fresh.event_count)
    response["Location"] = f"{PATH}/{fresh.pk}"
    return response
