"""Rollouts as they are shown: one with its progress, or a list of them."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db.models import Case, Count, IntegerField, QuerySet, Value, When

from deployments import access
from deployments.domain.actor import Actor
from deployments.domain.states import ALLOWED, MOVING, BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting
from deployments.models import Batch, Environment, Event, Rollout, RolloutTarget, Service, Task, Wave
from deployments.reads import choices
from deployments.reads.page import PAGE_SIZE, Page, newest_first

UNTOLD = "The engine is about to look at this rollout"
EVENTS_SHOWN = 100
FAILURES_SHOWN = 20
UNDER_WAY_SHOWN = 20

VERBS = {
    "pause": "rollout.pause",
    "resume": "rollout.resume",
    "cancel": "rollout.cancel",
    "rollback": "rollout.rollback",
    "retry": "rollout.retry",
    "skip": "rollout.skip",
}

LEFT_CHANGED = frozenset({RolloutState.SUCCEEDED, RolloutState.FAILED, RolloutState.CANCELLED})
"""Ends that may leave targets on the new release: an earlier one can be rolled out again."""


class TargetProgress(NamedTuple):
    """A target within a rollout, with no more than a tile shows: there may be thousands."""

    id: UUID
    """Of the RolloutTarget."""
    target_id: UUID
    batch_id: UUID
    name: str
    state: str
    touched: bool
    """Whether the new release was sent there; a target that is skipped afterwards keeps it."""
    error: str
    previous: str | None
    """Version that a rollback goes back to."""


PROGRESS = (
    "id",
    "target_id",
    "batch_id",
    "target__name",
    "state",
    "touched",
    "error",
    "previous_release__version",
)
"""The columns of TargetProgress."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchProgress:
    batch: Batch
    targets: Sequence[TargetProgress]
    done: int


@dataclasses.dataclass(frozen=True, slots=True)
class WaveProgress:
    wave: Wave
    batches: Sequence[BatchProgress]


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    waves: Sequence[WaveProgress]
    counts: Counter[str]
    """Targets by state."""
    batches: Sequence[Batch]

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def batches_done(self) -> int:
        return sum(1 for batch in self.batches if batch.state == BatchState.SUCCEEDED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    id: UUID
    """Of the RolloutTarget."""
    target_id: UUID
    name: str
    region: str
    code: str
    error: str
    log_tail: Sequence[str]


def of_actor(actor: Actor) -> QuerySet[Rollout]:
    return access.visible(
        actor, Rollout.objects.select_related("service__team", "environment", "release", "rolls_back")
    )


def get(actor: Actor, rollout_id: UUID) -> Rollout:
    """One rollout with what its page names; raises NotFound."""
    rollouts = Rollout.objects.select_related(
        "service__team", "environment", "release__artifact", "release__config", "rolls_back", "plan"
    )
    return access.get(actor, "rollout.view", rollouts, id=rollout_id)


def history(
    actor: Actor,
    *,
    service: str = "",
    environment: str = "",
    state: str = "",
    release_id: UUID | None = None,
    before: str = "",
    size: int = PAGE_SIZE,
) -> Page[Rollout]:
    """Rollouts that the actor may see, newest first; `state` is a state, or `active`."""
    rollouts = of_actor(actor)
    # By id, read first: of a name the planner cannot know how many rollouts it stands for.
    if service:
        rollouts = rollouts.filter(service__in=_ids(Service.objects.filter(name=service)))
    if environment:
        rollouts = rollouts.filter(environment__in=_ids(Environment.objects.filter(name=environment)))
    if release_id:
        rollouts = rollouts.filter(release=release_id)
    if state == "active":
        rollouts = rollouts.filter(state__in=sorted(s for s, moves in ALLOWED.items() if moves))
    elif state:
        rollouts = rollouts.filter(state=state)
    return newest_first(rollouts, before, size)


def _ids(rows: QuerySet[Any]) -> list[UUID]:
    return list(rows.order_by().values_list("id", flat=True))


def under_way(service: Service) -> list[Rollout]:
    """What moves, then the first of what waits for its turn; the caller may see the service."""
    is_waiting = Case(When(state__in=MOVING, then=Value(0)), default=Value(1), output_field=IntegerField())
    rows = Rollout.objects.active().filter(service=service).order_by(is_waiting, "-priority", "id")
    return list(rows.select_related("service", "environment", "release")[:UNDER_WAY_SHOWN])


def progress(rollout: Rollout) -> Progress:
    """Waves, their batches and the targets inside, in three queries."""
    waves = list(Wave.objects.filter(rollout=rollout).order_by("position"))
    batches = list(Batch.objects.filter(rollout=rollout).order_by("position"))
    found = RolloutTarget.objects.filter(rollout=rollout).order_by("position").values_list(*PROGRESS)
    rows = [TargetProgress(*row) for row in found]
    by_batch: dict[UUID, list[TargetProgress]] = defaultdict(list)
    for row in rows:
        by_batch[row.batch_id].append(row)
    by_wave: dict[UUID, list[BatchProgress]] = defaultdict(list)
    for batch in batches:
        targets = by_batch[batch.id]
        done = sum(1 for row in targets if row.state in (TargetState.HEALTHY, TargetState.REVERTED))
        by_wave[batch.wave_id].append(BatchProgress(batch, targets, done))
    return Progress(
        waves=[WaveProgress(wave, by_wave[wave.id]) for wave in waves],
        counts=Counter(row.state for row in rows),
        batches=batches,
    )


def summary(rollout: Rollout) -> Progress:
    """As `progress`, without the targets themselves: two queries and few rows."""
    counts = Counter(count_targets([rollout.id]).get(rollout.id, {}))
    batches = Batch.objects.filter(rollout=rollout).order_by("position")
    return Progress(waves=(), counts=counts, batches=list(batches))


def failures(rollout: Rollout) -> list[Failure]:
    """Targets that failed and have not become healthy since, with the last lines that they wrote.

    From the events: a target that was put back carries no error any more, but the page still says why.
    """
    said: dict[str, Event] = {}
    failed = Event.objects.filter(
        rollout=rollout, kind="target.state", data__after__state=TargetState.FAILED.value
    )
    for event in failed.order_by("number"):
        said[event.data["id"]] = event
    rows = RolloutTarget.objects.filter(rollout=rollout, id__in=list(said)).exclude(state=TargetState.HEALTHY)
    shown = list(rows.select_related("target__region").order_by("position")[:FAILURES_SHOWN])
    tails = {
        task.progress_id: task.log_tail
        for task in Task.objects.filter(progress__in=shown, state=TaskState.FAILED).order_by("id")
    }
    return [
        Failure(
            id=row.id,
            target_id=row.target_id,
            name=row.target.name,
            region=row.target.region.name,
            code=str(said[str(row.id)].data["after"].get("error_code", "")),
            error=str(said[str(row.id)].data.get("reason", "")),
            log_tail=tails.get(row.id) or row.log_tail,
        )
        for row in shown
    ]


def events(rollout: Rollout, *, after: int = 0, before: int = 0) -> list[Event]:
    """Newest first: the next ones after number `after` (ask again for the rest), or those before `before`."""
    rows = Event.objects.filter(rollout=rollout)
    if after:
        return list(rows.filter(number__gt=after).order_by("number")[:EVENTS_SHOWN])[::-1]
    if before:
        rows = rows.filter(number__lt=before)
    return list(rows.order_by("-number")[:EVENTS_SHOWN])


def estimate(batches: Sequence[Batch], now: datetime) -> timedelta | None:
    """Remaining time, from what the finished batches took; None before the first one has finished."""
    took = [
        (batch.finished_at - batch.started_at)
        for batch in batches
        if batch.state == BatchState.SUCCEEDED and batch.finished_at and batch.started_at
    ]
    if not took:
        return None
    mean = sum(took, timedelta()) / len(took)
    left = timedelta()
    for batch in batches:
        if batch.state == BatchState.PENDING or not batch.started_at:
            left += mean
        elif batch.state in (BatchState.RUNNING, BatchState.BAKING):
            left += max(mean - (now - batch.started_at), timedelta())
    return left


def waiting_of(rollout: Rollout) -> Waiting | None:
    """What it waits for, with the moment since when; None only at an end."""
    if not rollout.is_active:
        return None
    said = msgspec.convert(rollout.waiting_on or {"kind": "engine", "sentence": UNTOLD}, Waiting)
    return said if said.since else msgspec.structs.replace(said, since=rollout.state_since)


def permitted(actor: Actor, rollout: Rollout) -> list[str]:
    """What the actor may ever do to this rollout, whatever its state; one query."""
    held = access.allowed_among(actor, VERBS.values(), rollout)
    return [name for name, verb in VERBS.items() if verb in held]


def actions(actor: Actor, rollout: Rollout, counts: Mapping[str, int]) -> list[str]:
    """What the state and the actor's permission let them do now; `counts` are targets by state."""
    moves = ALLOWED[RolloutState(rollout.state)]
    offered = set()
    if rollout.state == RolloutState.PAUSED:
        offered.add("resume")
    if RolloutState.PAUSED in moves:
        offered.add("pause")
    if rollout.is_active:
        offered.add("cancel")
    if RolloutState.ROLLING_BACK in moves or (rollout.state in LEFT_CHANGED and choices.can_return(rollout)):
        offered.add("rollback")
    if choices.may_retry(rollout, counts):
        offered.add("retry")
    if choices.may_skip(rollout, counts):
        offered.add("skip")
    if rollout.quarantined_at is not None and rollout.is_active:
        offered &= {"cancel"}  # the engine leaves it alone: nothing else would happen
    return [name for name in permitted(actor, rollout) if name in offered]


def count_targets(rollout_ids: Iterable[UUID]) -> dict[UUID, dict[str, int]]:
    """Targets of each rollout by state, in one query."""
    counts: dict[UUID, dict[str, int]] = defaultdict(dict)
    rows = (
        RolloutTarget.objects.filter(rollout__in=list(rollout_ids))
        .order_by()
        .values_list("rollout_id", "state")
        .annotate(number=Count("id"))
    )
    for rollout_id, state, number in rows:
        counts[rollout_id][state] = number
    return counts
