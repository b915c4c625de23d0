"""Slots in the database: who moves, who waits, and whom to wake when a slot has become free.

A rollout takes its slot in its own tick, under one lock for all of them, so that two cannot take the
last one; the order is `domain.queue`'s. Where there is room for all that are active, nobody can take
another's slot, and they share the lock. Nobody hands out slots to others: who starts wakes who may start
next, and a rollout that was not woken looks again by itself, the sooner the fewer go before it.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection

from deployments import queueing
from deployments.domain.queue import Entry, Limits, Slot, line_up
from deployments.domain.states import ACTIVE, MOVING
from deployments.errors import StaleState

LOCK = 0x51197A8
LOCK_ALONE = "SELECT pg_advisory_xact_lock(%s)"
SHARE = "SELECT pg_advisory_xact_lock_shared(%s)"
HISTORY = 20
"""Rollouts of the environment that an estimate is made from."""
LONGEST_WAKE = 1000

# The same statement for all that look: a queue of a thousand is read in some milliseconds.
QUEUE = """
    SELECT json_build_object(
        'entries', (
            SELECT coalesce(json_agg(json_build_object(
                'id', r.id, 'service', r.service_id, 'environment', r.environment_id, 'team', s.team_id,
                'priority', r.priority, 'since', r.created_at, 'moving', r.state = ANY(%(moving)s),
                'exempt', r.kind = 'rollback')), '[]')
            FROM deployments_rollout r JOIN deployments_service s ON s.id = r.service_id
            WHERE r.state = ANY(%(moving)s) OR r.state = ANY(%(active)s) AND r.quarantined_at IS NULL),
        'environments', (
            SELECT coalesce(json_object_agg(id, max_active), '{}')
            FROM deployments_environment WHERE max_active IS NOT NULL),
        'teams', (
            SELECT coalesce(json_object_agg(id, max_active), '{}')
            FROM deployments_team WHERE max_active IS NOT NULL))::text
"""
# Room for all, should all that wait start at this moment. One that comes later counts this one as active.
ROOM = """
    SELECT count(*) <= %(all)s
           AND count(*) FILTER (WHERE r.service_id = mine.service_id
                                  AND r.environment_id = mine.environment_id) = 1
           AND count(*) FILTER (WHERE r.environment_id = mine.environment_id)
               <= coalesce(max(mine.environment_limit), count(*))
           AND count(*) FILTER (WHERE s.team_id = mine.team_id) <= coalesce(max(mine.team_limit), count(*))
    FROM deployments_rollout r JOIN deployments_service s ON s.id = r.service_id
    CROSS JOIN (
        SELECT my.service_id, my.environment_id, service.team_id,
               e.max_active AS environment_limit, t.max_active AS team_limit
        FROM deployments_rollout my
        JOIN deployments_service service ON service.id = my.service_id
        JOIN deployments_team t ON t.id = service.team_id
        JOIN deployments_environment e ON e.id = my.environment_id
        WHERE my.id = %(id)s) AS mine
    WHERE r.state = ANY(%(active)s)
"""
AHEAD = """
    SELECT rel.version, r.state FROM deployments_rollout r
    JOIN deployments_rollout mine ON mine.service_id = r.service_id AND mine.environment_id = r.environment_id
    JOIN deployments_release rel ON rel.id = r.release_id
    WHERE mine.id = %s AND r.state = ANY(%s)
"""
TAKES = """
    SELECT e.id, (
        SELECT extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY took)) FROM (
            SELECT r.finished_at - r.started_at AS took FROM deployments_rollout r
            WHERE r.environment_id = e.id AND r.state = 'succeeded' AND r.started_at IS NOT NULL
            ORDER BY r.id DESC LIMIT %s) AS recent)
    FROM deployments_environment e WHERE e.id = ANY(%s)
"""


class _Queue(msgspec.Struct, frozen=True):
    entries: tuple[Entry, ...]
    environments: dict[UUID, int]
    teams: dict[UUID, int]


class Line(NamedTuple):
    """The whole queue at one moment."""

    entries: dict[UUID, Entry]
    """Every active rollout."""
    slots: dict[UUID, Slot]
    """Of those that wait, first to start first."""
    limits: Limits


_decoder = msgspec.json.Decoder(_Queue)


def look(rollout_id: UUID, now: datetime) -> Slot:
    """Whether the rollout may start, in the caller's transaction; where it is tight, the others wait for it.

    Raises StaleState when others took the room that there was for all.
    """
    if _has_room(rollout_id):
        _row(SHARE, [LOCK])
        if _has_room(rollout_id):
            return Slot(free=True)
        # Of two who share the lock, neither could get it alone.
        raise StaleState
    _row(LOCK_ALONE, [LOCK])
    return peek(rollout_id, now)


def peek(rollout_id: UUID, now: datetime) -> Slot:
    """The same as it is now, without a lock: for whoever only wants to know."""
    line = line_of(now)
    slot = line.slots[rollout_id]
    if slot.free:
        others = (one for one, other in line.slots.items() if other.free and one != rollout_id)
        return msgspec.structs.replace(slot, following=next(others, None))
    environment = line.entries[rollout_id].environment
    took = takes([environment]).get(environment)
    return msgspec.structs.replace(slot, ahead=_ahead(rollout_id), estimate=estimate(slot, took, now))


def wake(now: datetime) -> None:
    """Have those look that may start now; call it after the move that freed a slot."""
    free = [rollout_id for rollout_id, slot in line_of(now).slots.items() if slot.free]
    for rollout_id in sorted(free[:LONGEST_WAKE]):
        queueing.tick(rollout_id)


def line_of(now: datetime) -> Line:
    """Read the queue in one statement, without a lock: it may have moved on when somebody reads it."""
    row = _row(QUEUE, {"moving": sorted(MOVING), "active": sorted(ACTIVE)})
    queue = _decoder.decode(row[0])
    limits = Limits(
        all=settings.SLIPWAY.max_active_rollouts, environments=queue.environments, teams=queue.teams
    )
    entries = {entry.id: entry for entry in queue.entries}
    return Line(entries, line_up(queue.entries, limits, now), limits)


def takes(environments: Collection[UUID]) -> dict[UUID, float]:
    """The median of the seconds that rollouts took lately, by environment; without those that had none."""
    with connection.cursor() as cursor:
        cursor.execute(TAKES, [HISTORY, list(environments)])
        return {environment: float(took) for environment, took in cursor.fetchall() if took is not None}


def estimate(slot: Slot, took_seconds: float | None, now: datetime) -> datetime | None:
    """When it may start, with so many at once as the limit lets; None: nothing is known."""
    if took_seconds is None:
        return None
    rounds = -(-slot.turn // max(slot.limit, 1))
    return now + timedelta(seconds=rounds * took_seconds)


def _has_room(rollout_id: UUID) -> bool:
    limit = settings.SLIPWAY.max_active_rollouts
    (has_room,) = _row(ROOM, {"all": limit, "id": rollout_id, "active": sorted(ACTIVE)})
    return bool(has_room)


def _ahead(rollout_id: UUID) -> str:
    row = _row(AHEAD, [rollout_id, sorted(MOVING)])
    return f"{row[0]}, {row[1].replace('_', ' ')}" if row else ""


def _row(statement: str, values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()
