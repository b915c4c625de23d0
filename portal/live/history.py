"""Reads for the feeds: PostgreSQL builds the JSON, Python does not touch it."""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from django.db import connection

from portal.live.feeds import PAGE, Numbered

EVENTS = """
    SELECT known.id, event.number, jsonb_build_object(
        'n', event.number, 'at', event.at, 'kind', event.kind, 'data', event.data)::text
    FROM unnest(%s::uuid[], %s::bigint[]) AS known(id, last)
    CROSS JOIN LATERAL (
        SELECT * FROM deployments_event WHERE rollout_id = known.id AND number > known.last
        ORDER BY number LIMIT %s) AS event
    ORDER BY known.id, event.number
"""
LOGS = """
    SELECT known.id, chunk.id, jsonb_build_object(
        'n', chunk.id, 'at', chunk.at, 'kind', 'log',
        'data', jsonb_build_object('text', chunk.text, 'dropped', chunk.dropped))::text
    FROM unnest(%s::uuid[], %s::bigint[]) AS known(id, last)
    CROSS JOIN LATERAL (
        SELECT * FROM deployments_logchunk WHERE target_id = known.id AND id > known.last
        ORDER BY id LIMIT %s) AS chunk
    ORDER BY known.id, chunk.id
"""
# Numbers begin at 1 in each rollout and are counted in its row; a target's are those of its chunks' rows.
NEWEST_EVENT = "SELECT event_count FROM deployments_rollout WHERE id = %s"
NEWEST_LOG = "SELECT max(id) FROM deployments_logchunk WHERE target_id = %s"
TARGETS = """
    SELECT target.id, jsonb_build_object(
        'kind', 'target', 'at', target.reported_at, 'data', jsonb_build_object(
            'id', target.id, 'name', target.name, 'health', target.health, 'reported', target.reported))::text
    FROM deployments_target target
    WHERE target.id = ANY(%s)
"""
ROLLOUTS = """
    SELECT rollout.id, rollout.service_id, rollout.environment_id, service.team_id
    FROM deployments_rollout rollout JOIN deployments_service service ON service.id = rollout.service_id
    WHERE rollout.id = ANY(%s)
"""
TEAMS_OF_TARGETS = """
    SELECT DISTINCT target.service_id, region.environment_id, service.team_id
    FROM deployments_target target JOIN deployments_region region ON region.id = target.region_id
    JOIN deployments_service service ON service.id = target.service_id
    WHERE target.id = ANY(%s)
"""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an overview is told: look again at this service in this environment."""

    rollout: UUID | None
    service: UUID
    environment: UUID
    team: UUID


def events_after(lasts: Mapping[UUID, int]) -> dict[UUID, list[Numbered]]:
    """Rollout id -> its events after the number given for it."""
    return _numbered(EVENTS, lasts)


def logs_after(lasts: Mapping[UUID, int]) -> dict[UUID, list[Numbered]]:
    """Target id -> its log chunks after the one given for it."""
    return _numbered(LOGS, lasts)


def newest_event(rollout_id: UUID) -> int:
    """The number of the rollout's newest event; 0 without any."""
    return _newest(NEWEST_EVENT, rollout_id)


def newest_log(target_id: UUID) -> int:
    """The number of the target's newest log chunk; 0 without any."""
    return _newest(NEWEST_LOG, target_id)


def targets(ids: list[UUID]) -> list[tuple[UUID, str]]:
    """What these targets look like now, as events without a number."""
    with connection.cursor() as cursor:
        cursor.execute(TARGETS, [ids])
        return list(cursor.fetchall())


def changes(rollout_ids: list[UUID], target_ids: list[UUID]) -> list[Change]:
    """Where something changed: by rollout, and by target where no rollout says so."""
    with connection.cursor() as cursor:
        cursor.execute(ROLLOUTS, [rollout_ids])
        found = [
            Change(rollout=rollout, service=service, environment=environment, team=team)
            for rollout, service, environment, team in cursor.fetchall()
        ]
        told = {(change.service, change.environment) for change in found}
        if target_ids:
            cursor.execute(TEAMS_OF_TARGETS, [target_ids])
            found += [
                Change(rollout=None, service=service, environment=environment, team=team)
                for service, environment, team in cursor.fetchall()
                if (service, environment) not in told
            ]
    return found


def _newest(statement: str, key: UUID) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, [key])
        row = cursor.fetchone()
    return (row and row[0]) or 0


def _numbered(statement: str, lasts: Mapping[UUID, int]) -> dict[UUID, list[Numbered]]:
    found: dict[UUID, list[Numbered]] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(lasts), list(lasts.values()), PAGE])
        for key, number, text in cursor.fetchall():
            found.setdefault(key, []).append((number, text))
    return found
