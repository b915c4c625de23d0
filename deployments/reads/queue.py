"""The queue as it is shown: who moves, who waits at which place, and what each waits for.

Read without the engine's lock: a picture of one moment. What the actor may not see counts in places and
limits, and is shown without a name.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from deployments import access
from deployments.domain.actor import Actor
from deployments.domain.queue import Limit
from deployments.domain.states import WAITING_FOR_SLOT
from deployments.engine import slots
from deployments.models import Environment, Rollout

SHOWN = 100
"""Waiting rollouts of an environment that are shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rollout stands that waits for its slot."""

    place: int
    """1, 2, 3, ... among those that wait for the same environment."""
    waiting: int
    """How many wait for that environment, this one included."""
    blocked_by: Limit
    """The first limit that leaves no room; empty: it is next."""
    limit: int
    estimate: datetime | None
    """When it may start, by what rollouts took there lately."""


@dataclasses.dataclass(frozen=True, slots=True)
class Waiter:
    place: Place
    since: datetime
    rollout: Rollout | None
    """None: another team's, of which only the place is anybody's business."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueueOf:
    """What moves and what waits in one environment."""

    environment: Environment
    moving: Sequence[Rollout]
    """Those that the actor may see, oldest first."""
    moving_total: int
    waiting: Sequence[Waiter]
    """The first ones, in order."""
    waiting_total: int


def places(rollouts: Iterable[Rollout]) -> dict[UUID, Place]:
    """The places of those among `rollouts` that wait; no query where none does."""
    wanted = {one.pk: one.environment_id for one in rollouts if one.state in WAITING_FOR_SLOT}
    if not wanted:
        return {}
    now = timezone.now()
    line = slots.line_of(now)
    took = slots.takes(set(wanted.values()))
    return {
        pk: _place(line, pk, took.get(environment), now)
        for pk, environment in wanted.items()
        if pk in line.slots
    }


def by_environment(actor: Actor) -> list[QueueOf]:
    """Every environment in which something moves or waits, by name."""
    now = timezone.now()
    line = slots.line_of(now)
    moving: dict[UUID, list[UUID]] = defaultdict(list)
    waiting: dict[UUID, list[UUID]] = defaultdict(list)
    for entry in sorted(line.entries.values(), key=lambda one: one.since):
        if entry.moving:
            moving[entry.environment].append(entry.id)
    for pk in line.slots:
        waiting[line.entries[pk].environment].append(pk)
    busy = set(moving) | set(waiting)
    took = slots.takes(busy)
    shown = [pk for pks in (*moving.values(), *waiting.values()) for pk in pks[:SHOWN]]
    related = Rollout.objects.select_related("service__team", "environment", "release", "plan")
    seen = {one.pk: one for one in access.visible(actor, related.filter(pk__in=shown))}
    return [
        QueueOf(
            environment=environment,
            moving=[seen[pk] for pk in moving[environment.pk] if pk in seen],
            moving_total=len(moving[environment.pk]),
            waiting=[
                Waiter(
                    _place(line, pk, took.get(environment.pk), now),
                    line.entries[pk].since,
                    seen.get(pk),
                )
                for pk in waiting[environment.pk][:SHOWN]
            ],
            waiting_total=len(waiting[environment.pk]),
        )
        for environment in Environment.objects.filter(pk__in=busy).order_by("name")
    ]


def _place(line: slots.Line, pk: UUID, took_seconds: float | None, now: datetime) -> Place:
    slot = line.slots[pk]
    return Place(
        place=slot.place,
        waiting=slot.waiting,
        blocked_by=slot.blocked_by,
        limit=slot.limit,
        estimate=None if slot.free else slots.estimate(slot, took_seconds, now),
    )
