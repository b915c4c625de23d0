"""The queue: what moves and what waits in each environment, in the order in which it starts."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments.domain.actor import Actor
from deployments.models import Rollout
from deployments.reads import queue
from portal.ui.errors import page
from portal.ui.format import ago
from portal.ui.lists import RolloutRow, rollout_rows

SOON = timedelta(seconds=30)


@dataclasses.dataclass(frozen=True, slots=True)
class WaiterRow:
    place: int
    rollout: RolloutRow | None
    """None: another team's."""
    priority: str
    blocked: str
    estimate: SafeString | str
    since: SafeString | str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentQueue:
    name: str
    limit: int | None
    moving: Sequence[RolloutRow]
    moving_total: int
    unnamed: int
    """Of those that move and that the actor may see, how many are not shown."""
    hidden: int
    """Of those that move, how many are other teams'."""
    waiting: Sequence[WaiterRow]
    waiting_total: int
    more: int


@page
def show(request: HttpRequest, actor: Actor) -> HttpResponse:
    now = timezone.now()
    found = [_environment(one, now) for one in queue.by_environment(actor)]
    return render(request, "ui/queue.html", {"queues": found})


def blocked(place: queue.Place) -> str:
    """What holds it up, in a few words."""
    match place.blocked_by:
        case "service":
            return "another rollout of the service moves there"
        case "environment":
            return f"the environment lets {place.limit} move at once"
        case "team":
            return f"the team lets {place.limit} move at once"
        case "all":
            return f"no more than {place.limit} move at once, over all"
    return "it is next"


def _environment(one: queue.QueueOf, now: datetime) -> EnvironmentQueue:
    return EnvironmentQueue(
        name=one.environment.name,
        limit=one.environment.max_active,
        moving=rollout_rows(one.moving, now),
        moving_total=one.moving_total,
        unnamed=one.moving_visible - len(one.moving),
        hidden=one.moving_total - one.moving_visible,
        waiting=[_waiter(waiter, now) for waiter in one.waiting],
        waiting_total=one.waiting_total,
        more=one.waiting_total - len(one.waiting),
    )


def _waiter(waiter: queue.Waiter, now: datetime) -> WaiterRow:
    place = waiter.place
    return WaiterRow(
        place=place.place,
        rollout=rollout_rows([waiter.rollout], now)[0] if waiter.rollout else None,
        priority=Rollout.Priority(waiter.rollout.priority).label if waiter.rollout else "",
        blocked=blocked(place) if waiter.rollout or place.blocked_by else "",
        estimate=_start(place.estimate, now),
        since=ago(waiter.since, now) if waiter.since else "",
    )


def _start(estimate: datetime | None, now: datetime) -> SafeString | str:
    """An estimate that has passed says no more than that it cannot be long, once it goes on."""
    return "soon" if estimate is not None and estimate - now < SOON else ago(estimate, now)
