"""The queue as it is shown: who moves, who waits at which place, and what each waits for.

Read without the engine's lock: a picture of one moment. What the actor may not see counts in places and
limits, and is shown without a name.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
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
"""Rollouts of an environment that are shown, of those that move and of those that wait."""
TOLD: frozenset[Limit] = frozenset({"environment", "all"})
"""Limits that hold up a rollout which the actor may not see, and are everybody's business."""


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
    since: datetime | None
    rollout: Rollout | None
    """None: another team's, of which only the place is anybody's business: not since when it waits, nor
    for a limit of its service or team."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueueOf:
    """What moves and what waits in one environment."""

    environment: Environment
    moving: Sequence[Rollout]
    """The first of those that the actor may see, oldest first."""
    moving_visible: int
    """How many the actor may see."""
    moving_total: int
    waiting: Sequence[Waiter]
    """The first ones, and the first ones that the actor may see, in order."""
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
    active = Rollout.objects.filter(pk__in=list(line.entries))
    mine = set(access.visible(actor, active).order_by().values_list("pk", flat=True))
    visible = {environment: [pk for pk in pks if pk in mine] for environment, pks in moving.items()}
    shown = {environment: _first(pks, mine) for environment, pks in waiting.items()}
    named = [pk for pks in visible.values() for pk in pks[:SHOWN]]
    named += [pk for pks in shown.values() for pk in pks if pk in mine]
    related = Rollout.objects.select_related("service__team", "environment", "release", "plan")
    seen = related.in_bulk(named)
    return [
        QueueOf(
            environment=environment,
            moving=[seen[pk] for pk in visible.get(environment.pk, ())[:SHOWN] if pk in seen],
            moving_visible=len(visible.get(environment.pk, ())),
            moving_total=len(moving[environment.pk]),
            waiting=[
                _waiter(seen.get(pk), line.entries[pk].since, _place(line, pk, took.get(environment.pk), now))
                for pk in shown.get(environment.pk, ())
            ],
            waiting_total=len(waiting[environment.pk]),
        )
        for environment in Environment.objects.filter(pk__in=busy).order_by("name")
    ]


def _first(waiting: Sequence[UUID], mine: Set[UUID]) -> list[UUID]:
    """The first of all, and the first of `mine` however many others go before them; in order."""
    chosen = {*waiting[:SHOWN], *[pk for pk in waiting if pk in mine][:SHOWN]}
    return [pk for pk in waiting if pk in chosen]


def _waiter(rollout: Rollout | None, since: datetime, place: Place) -> Waiter:
    if rollout is not None:
        return Waiter(place, since, rollout)
    if place.blocked_by not in TOLD:
        place = dataclasses.replace(place, blocked_by="", limit=0)
    return Waiter(place, None, None)


def _place(line: slots.Line, pk: UUID, took_seconds: float | None, now: datetime) -> Place:
    slot = line.slots[pk]
    return Place(
        place=slot.place,
        waiting=slot.waiting,
        blocked_by=slot.blocked_by,
        limit=slot.limit,
        estimate=None if slot.free else slots.estimate(slot, took_seconds, now),
    )
