"""What agents see on their targets, written many at a time.

A heartbeat never costs a statement of its own: a web process gathers what its agents say and writes it
once a second, in a number of statements that does not depend on how many agents there are.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog
from django.db import connection, transaction

from deployments import events, protocol, queueing
from deployments.agents import texts
from deployments.domain.actor import Actor, ActorKind
from deployments.domain.states import ACTIVE

logger = structlog.get_logger(__name__)

CHANNEL = "slipway_targets"
"""Payload: the id of a target whose health, status or release changed."""

SEEN = "UPDATE deployments_agent SET last_seen_at = clock_timestamp() WHERE id = ANY(%s)"

# Rows that the engine holds are left out and written with the next observation: neither waits for the
# other, so they cannot block each other either. What waited here while newer words were written, from a
# report or through another web process, does not count any more. A row from the future was written before
# the clock was set back, and holds nothing up.
OBSERVE = """
    WITH seen AS (
        SELECT DISTINCT ON (target_id, agent_id) * FROM jsonb_to_recordset(%s::jsonb) AS seen(
            position integer, age_seconds double precision, agent_id uuid, target_id uuid, health text,
            report jsonb)
        ORDER BY target_id, agent_id, age_seconds, position DESC
    ), old AS (
        SELECT target.id, target.name, target.agent_id, target.health, target.reported,
               seen.health AS health_now, seen.report, heard.at AS heard_at
        FROM deployments_target target
        JOIN seen ON seen.target_id = target.id AND seen.agent_id = target.agent_id
        CROSS JOIN LATERAL (
            SELECT statement_timestamp() - seen.age_seconds * interval '1 second') AS heard(at)
        WHERE target.reported_at IS NULL OR target.reported_at <= heard.at
           OR target.reported_at > statement_timestamp() + interval '10 seconds'
        FOR NO KEY UPDATE OF target SKIP LOCKED
    ), written AS (
        UPDATE deployments_target target
        SET health = old.health_now, reported = old.report, reported_at = old.heard_at
        FROM old WHERE target.id = old.id
    )
    SELECT old.id, old.name, old.agent_id, old.health, old.health_now, old.report ->> 'status',
           old.health <> old.health_now
           OR old.reported ->> 'status' IS DISTINCT FROM old.report ->> 'status'
           OR old.reported ->> 'release_id' IS DISTINCT FROM old.report ->> 'release_id'
    FROM old
"""
ROLLOUTS = """
    SELECT progress.target_id, rollout.id FROM deployments_rollouttarget progress
    JOIN deployments_rollout rollout ON rollout.id = progress.rollout_id
    WHERE progress.target_id = ANY(%s) AND rollout.state = ANY(%s) ORDER BY rollout.id
"""


class Observation(msgspec.Struct, frozen=True):
    agent_id: UUID
    target: protocol.TargetReport
    age_seconds: float = 0.0
    """How long ago the agent said it; of several the youngest counts, and never an older than the row's."""


class _Changed(msgspec.Struct, frozen=True):
    target_id: UUID
    name: str
    agent_id: UUID
    before: str
    health: str
    status: str


def are_alive(agent_ids: Collection[UUID]) -> None:
    """Note that these agents were heard of now, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(SEEN, [list(agent_ids)])


class Observed(msgspec.Struct, frozen=True):
    written: frozenset[UUID] = frozenset()
    """Targets whose row holds the observation now."""
    rollouts: frozenset[UUID] = frozenset()
    """Active rollouts in which something changed."""


@transaction.atomic
def observe(observations: Sequence[Observation]) -> Observed:
    """Write what runs on the targets and wake the engine for the active rollouts concerned."""
    observed = write(observations)
    for rollout_id in sorted(observed.rollouts):
        queueing.tick(rollout_id)
    return observed


def write(observations: Sequence[Observation]) -> Observed:
    """Write what runs on the targets, the youngest word on each counts; the caller wakes the engine.

    Only an agent's own targets are written. Changed health is an event of the active rollout that the
    target takes part in; everybody else hears of a change by notification.
    """
    rows = [row for position, item in enumerate(observations) if (row := _row(position, item))]
    if not rows:
        return Observed()
    with connection.cursor() as cursor:
        cursor.execute(OBSERVE, [msgspec.json.encode(rows).decode()])
        found = cursor.fetchall()
    changed = [_Changed(*fields) for *fields, has_changed in found if has_changed]
    return Observed(frozenset(row[0] for row in found), _tell(changed) if changed else frozenset())


def _tell(changed: Sequence[_Changed]) -> frozenset[UUID]:
    by_target = {change.target_id: change for change in changed}
    by_rollout: dict[UUID, list[_Changed]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_notify(%s, id::text) FROM unnest(%s::uuid[]) AS id", [CHANNEL, list(by_target)]
        )
        cursor.execute(ROLLOUTS, [list(by_target), sorted(ACTIVE)])
        for target_id, rollout_id in cursor.fetchall():
            by_rollout.setdefault(rollout_id, []).append(by_target[target_id])
    turned = {
        rollout_id: events_of
        for rollout_id, targets in by_rollout.items()
        if (events_of := [_health_event(one) for one in targets if _is_news(one)])
    }
    # After the commit, because an event locks its rollout: the engine takes that lock before it takes
    # those of the targets, and this transaction holds targets already.
    transaction.on_commit(functools.partial(_record, turned))
    for change in changed:
        if change.before != change.health:
            logger.info(
                "target.health", target=change.name, target_id=str(change.target_id), before=change.before,
                after=change.health,
            )  # fmt: skip
    return frozenset(by_rollout)


def _record(turned: Mapping[UUID, Sequence[events.Change]]) -> None:
    for rollout_id, changes in turned.items():
        with transaction.atomic():
            events.record(
                actor=Actor(kind=ActorKind.AGENT, id="agents", name="agents"),
                rollout_id=rollout_id,
                changes=changes,
            )


def _is_news(change: _Changed) -> bool:
    """A target that comes up under a rollout is told as its state; the same again as health is noise."""
    return change.before != change.health and (change.before, change.health) != ("unknown", "healthy")


def _health_event(change: _Changed) -> events.Change:
    return events.Change(
        verb="target.health",
        object_kind="target",
        object_id=str(change.target_id),
        object_name=change.name,
        before={"health": change.before},
        after={"health": change.health},
        event="target.health",
        audited=False,
        data={"status": change.status, "agent_id": str(change.agent_id)},
    )


def _row(position: int, item: Observation) -> dict[str, Any] | None:
    target_id = texts.as_id(item.target.target_id)
    if target_id is None:
        return None
    report = msgspec.structs.replace(
        item.target,
        release_id=texts.column(item.target.release_id, 36),
        artifact_digest=texts.column(item.target.artifact_digest, 71),
        config_digest=texts.column(item.target.config_digest, 71),
        modified=tuple(texts.column(path, 300) for path in item.target.modified[:10]),
    )
    return {
        "position": position,
        "age_seconds": max(item.age_seconds, 0.0),
        "agent_id": item.agent_id,
        "target_id": target_id,
        "health": report.health,
        "report": msgspec.to_builtins(report) | {"status": report.status, "health": report.health},
    }
