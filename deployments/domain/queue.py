"""Who may start next: rollouts that wait for a slot, in an order that is fair and starves nobody. Pure.

A slot is bounded four times: one moving rollout of a service in an environment, and limits of the
environment, of the team and over all. The higher priority goes first; a rollout that has waited
`AGING` counts as one priority higher, and one that has outgrown the highest goes by its age alone.
Among equals the team with the fewest rollouts that move or go before takes its turn (max-min
fairness), then whoever came first. Nobody is held up by one that waits for another limit, and a
rollback is held up by none.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

AGING = timedelta(minutes=30)
HIGHEST = 2
OVERDUE = HIGHEST + 1
"""Who has waited until then goes before all others, by age alone: no team can keep it waiting."""

Limit = Literal["", "service", "environment", "team", "all"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One active rollout."""

    id: UUID
    service: UUID
    environment: UUID
    team: UUID
    priority: int
    since: datetime
    moving: bool
    exempt: bool = False
    """A way back waits for its service alone, and for no limit."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How many may move at once; what is not named has no limit."""

    all: int
    environments: Mapping[UUID, int] = {}
    teams: Mapping[UUID, int] = {}


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """What one waiting rollout finds when it looks at the queue."""

    free: bool
    blocked_by: Limit = ""
    """The first limit that leaves no room."""
    limit: int = 0
    place: int = 1
    """1, 2, 3, ...: its place among those that wait for the same environment."""
    waiting: int = 1
    """How many wait for that environment, itself included."""
    turn: int = 1
    """1, 2, 3, ...: its place among those that wait for the very same limit."""
    before: int = 0
    """How many of the whole queue, whatever they wait for, go before it."""
    following: UUID | None = None
    """Who else may start now, first among them."""
    ahead: str = ""
    """What moves in its stead, for people: `orders 1.1, paused`."""
    estimate: datetime | None = None
    """When it may start, by what rollouts took there lately; None: nothing is known."""


def line_up(entries: Sequence[Entry], limits: Limits, now: datetime) -> dict[UUID, Slot]:
    """Return the slot of each waiting rollout."""
    moving = [entry for entry in entries if entry.moving]
    busy = {(entry.service, entry.environment) for entry in moving}
    environments = Counter(entry.environment for entry in moving)
    teams = Counter(entry.team for entry in moving)
    total = len(moving)
    waiting = Counter(entry.environment for entry in entries if not entry.moving)
    places: Counter[UUID] = Counter()
    turns: Counter[tuple[Limit, object]] = Counter()
    slots: dict[UUID, Slot] = {}
    for before, entry in enumerate(_order(entries, teams, now)):
        places[entry.environment] += 1
        blocked_by, limit = _blocked(entry, busy, environments, teams, total, limits)
        if not blocked_by:
            busy.add((entry.service, entry.environment))
            environments[entry.environment] += 1
            teams[entry.team] += 1
            total += 1
        shared = {
            "service": (entry.service, entry.environment),
            "environment": entry.environment,
            "team": entry.team,
        }.get(blocked_by)
        turns[blocked_by, shared] += 1
        slots[entry.id] = Slot(
            free=not blocked_by,
            blocked_by=blocked_by,
            limit=limit,
            place=places[entry.environment],
            waiting=waiting[entry.environment],
            turn=turns[blocked_by, shared],
            before=before,
        )
    return slots


def _order(entries: Sequence[Entry], moving: Counter[UUID], now: datetime) -> list[Entry]:
    """Waiting entries, first to start first."""
    classes: dict[int, dict[UUID, list[Entry]]] = {}
    for entry in sorted((one for one in entries if not one.moving), key=lambda one: (one.since, one.id)):
        aged = min(OVERDUE, entry.priority + max(0, (now - entry.since) // AGING))
        classes.setdefault(aged, {}).setdefault(entry.team, []).append(entry)
    turns = Counter(moving)
    overdue = classes.pop(OVERDUE, {})
    ordered = sorted((one for mine in overdue.values() for one in mine), key=lambda one: (one.since, one.id))
    turns.update(one.team for one in ordered)
    for priority in sorted(classes, reverse=True):
        lines = {team: iter(mine) for team, mine in classes[priority].items()}
        heads = [(turns[team], mine[0].since, team) for team, mine in classes[priority].items()]
        heapq.heapify(heads)
        following = {team: next(line) for team, line in lines.items()}
        while heads:
            _, _, team = heapq.heappop(heads)
            ordered.append(following[team])
            turns[team] += 1
            if (after := next(lines[team], None)) is not None:
                following[team] = after
                heapq.heappush(heads, (turns[team], after.since, team))
    return ordered


def _blocked(
    entry: Entry,
    busy: set[tuple[UUID, UUID]],
    environments: Counter[UUID],
    teams: Counter[UUID],
    total: int,
    limits: Limits,
) -> tuple[Limit, int]:
    if (entry.service, entry.environment) in busy:
        return "service", 1
    if entry.exempt:
        return "", 0
    limit = limits.environments.get(entry.environment)
    if limit is not None and environments[entry.environment] >= limit:
        return "environment", limit
    limit = limits.teams.get(entry.team)
    if limit is not None and teams[entry.team] >= limit:
        return "team", limit
    return ("all", limits.all) if total >= limits.all else ("", 0)
