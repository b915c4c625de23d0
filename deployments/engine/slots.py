"""Slots in the database: who moves, who waits, and whom to wake when a slot has become free.

A rollout takes its slot in its own tick, under one lock for all of them, so that two cannot take the
last one; the order is `domain.queue`'s. Nobody hands out slots to others: a rollout that was not woken
looks again by itself after a few seconds.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection

from deployments import queueing
from deployments.domain.queue import Entry, Limits, Slot, line_up
from deployments.domain.states import ACTIVE, MOVING

LOCK = 0x51197A8
HISTORY = 20
"""Rollouts of the environment that an estimate is made from."""
LONGEST_WAKE = 100

# The same statement for all that look: a queue of a thousand is read in some milliseconds.
QUEUE = """
    SELECT json_build_object(
        'entries', (
            SELECT coalesce(json_agg(json_build_object(
                'id', r.id, 'service', r.service_id, 'environment', r.environment_id, 'team', s.team_id,
                'priority', r.priority, 'since', r.created_at, 'moving', r.state = ANY(%(moving)s))), '[]')
            FROM deployments_rollout r JOIN deployments_service s ON s.id = r.service_id
            WHERE r.state = ANY(%(active)s)),
        'environments', (
            SELECT coalesce(json_object_agg(id, max_active), '{}')
            FROM deployments_environment WHERE max_active IS NOT NULL),
        'teams', (
            SELECT coalesce(json_object_agg(id, max_active), '{}')
            FROM deployments_team WHERE max_active IS NOT NULL))::text
"""
AHEAD = """
    SELECT rel.version, r.state FROM deployments_rollout r
    JOIN deployments_rollout mine ON mine.service_id = r.service_id AND mine.environment_id = r.environment_id
    JOIN deployments_release rel ON rel.id = r.release_id
    WHERE mine.id = %s AND r.state = ANY(%s)
"""
TAKES = """
    SELECT extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY took)) FROM (
        SELECT r.finished_at - r.started_at AS took FROM deployments_rollout r
        JOIN deployments_rollout mine ON mine.environment_id = r.environment_id
        WHERE mine.id = %s AND r.state = 'succeeded' AND r.started_at IS NOT NULL
        ORDER BY r.id DESC LIMIT %s) AS recent
"""


class _Queue(msgspec.Struct, frozen=True):
    entries: tuple[Entry, ...]
    environments: dict[UUID, int]
    teams: dict[UUID, int]


_decoder = msgspec.json.Decoder(_Queue)


def look(rollout_id: UUID, now: datetime) -> Slot:
    """Whether the rollout may start, in the caller's transaction; the others wait until it has ended."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    slot = _slots(now)[rollout_id]
    if slot.free:
        return slot
    return msgspec.structs.replace(slot, ahead=_ahead(rollout_id), estimate=_estimate(rollout_id, slot, now))


def wake(now: datetime) -> None:
    """Have those look that may start now; call it after the move that freed a slot."""
    free = [rollout_id for rollout_id, slot in _slots(now).items() if slot.free]
    for rollout_id in sorted(free[:LONGEST_WAKE]):
        queueing.tick(rollout_id)


def _slots(now: datetime) -> dict[UUID, Slot]:
    row = _row(QUEUE, {"moving": sorted(MOVING), "active": sorted(ACTIVE)})
    queue = _decoder.decode(row[0])
    limits = Limits(
        all=settings.SLIPWAY.max_active_rollouts, environments=queue.environments, teams=queue.teams
    )
    return line_up(queue.entries, limits, now)


def _ahead(rollout_id: UUID) -> str:
    row = _row(AHEAD, [rollout_id, sorted(MOVING)])
    return f"{row[0]}, {row[1].replace('_', ' ')}" if row else ""


def _estimate(rollout_id: UUID, slot: Slot, now: datetime) -> datetime | None:
    """By the median of what rollouts took there lately, so many at once as the limit lets."""
    row = _row(TAKES, [rollout_id, HISTORY])
    if row is None or row[0] is None:
        return None
    rounds = -(-slot.place // max(slot.limit, 1))
    return now + timedelta(seconds=rounds * float(row[0]))


def _row(statement: str, values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()
