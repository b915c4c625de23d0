"""What agents see on their targets, written many at a time.

A heartbeat never costs a statement of its own: a web process gathers what its agents say and writes it
once a second, in a number of statements that does not depend on how many agents there are.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection, transaction

from deployments import protocol, queueing
from deployments.agents import news, texts
from deployments.agents.news import CHANNEL as CHANNEL
from deployments.domain import drift
from deployments.domain.states import MOVING
from deployments.models.agents import SILENT_AFTER_HEARTBEATS

EXPECTED = """
    SELECT target.id, target.release_id, release.version, artifact.digest, config.digest
    FROM deployments_target target
    LEFT JOIN deployments_release release ON release.id = target.release_id
    LEFT JOIN deployments_artifact artifact ON artifact.id = release.artifact_id
    LEFT JOIN deployments_configsnapshot config ON config.id = release.config_id
    WHERE target.id = ANY(%s)
"""
# Rows that others hold are left out and written with the next heartbeat: neither waits for the other, so
# they cannot block each other either. What waited here while newer words were written, from a report or
# through another web process, does not count any more. A row from the future was written before the clock
# was set back, and holds nothing up.
# Drift was found for the release that was expected then, and counts while that has not changed. Whether a
# target is being moved is asked only for those that drift: while it is, or was a moment ago by a task that
# was cancelled and not answered yet, it does not.
OBSERVE = """
    WITH alive AS (
        SELECT id FROM deployments_agent WHERE id = ANY(%(alive)s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ), noted AS (
        UPDATE deployments_agent agent SET last_seen_at = clock_timestamp() FROM alive
        WHERE agent.id = alive.id
    ), seen AS (
        SELECT DISTINCT ON (target_id, agent_id) * FROM jsonb_to_recordset(%(seen)s::jsonb) AS seen(
            position integer, age_seconds double precision, agent_id uuid, target_id uuid, health text,
            report jsonb, drift text, for_release uuid)
        ORDER BY target_id, agent_id, age_seconds, position DESC
    ), old AS (
        SELECT target.id, target.name, target.agent_id, target.release_id, target.health, target.reported,
               target.reported_at, target.drift, target.drift_since, seen.health AS health_now, seen.report,
               seen.drift AS drift_found, seen.for_release, heard.at AS heard_at
        FROM deployments_target target
        JOIN seen ON seen.target_id = target.id AND seen.agent_id = target.agent_id
        CROSS JOIN LATERAL (
            SELECT statement_timestamp() - seen.age_seconds * interval '1 second') AS heard(at)
        WHERE target.reported_at IS NULL OR target.reported_at <= heard.at
           OR target.reported_at > statement_timestamp() + interval '10 seconds'
        FOR NO KEY UPDATE OF target SKIP LOCKED
    ), judged AS (
        SELECT old.*, CASE WHEN drift_found IS NULL OR release_id IS DISTINCT FROM for_release
                           THEN drift ELSE drift_found END AS drift_now
        FROM old
    ), now AS (
        SELECT judged.*, CASE
            WHEN drift_now = '' THEN ''
            WHEN EXISTS (
                SELECT FROM deployments_rollouttarget progress
                JOIN deployments_rollout rollout ON rollout.id = progress.rollout_id
                WHERE progress.target_id = judged.id AND rollout.state = ANY(%(moving)s)
                  AND progress.touched AND progress.state <> ALL(%(settled)s)) THEN ''
            WHEN EXISTS (
                SELECT FROM deployments_task task
                WHERE task.target_id = judged.id AND task.state = 'cancelled' AND task.kind <> 'stage'
                  AND task.sent_at IS NOT NULL AND task.expires_at > statement_timestamp()
                  AND NOT EXISTS (
                      SELECT FROM deployments_taskreport report
                      WHERE report.task_id = task.id AND report.status <> 'accepted')) THEN ''
            ELSE drift_now END AS drift_is
        FROM judged
    ), written AS (
        UPDATE deployments_target target
        SET health = now.health_now, reported = now.report, reported_at = now.heard_at, drift = now.drift_is,
            drift_since = CASE WHEN now.drift_is = '' THEN NULL
                               WHEN now.drift_is = now.drift THEN now.drift_since ELSE now.heard_at END
        FROM now WHERE target.id = now.id
    )
    SELECT id, name, agent_id, health, health_now, report ->> 'status', drift, drift_is,
           coalesce(reported_at < statement_timestamp() - %(silent)s * interval '1 second', false),
           health <> health_now OR drift <> drift_is
           OR reported ->> 'status' IS DISTINCT FROM report ->> 'status'
           OR reported ->> 'release_id' IS DISTINCT FROM report ->> 'release_id'
           OR reported ->> 'restarts' IS DISTINCT FROM report ->> 'restarts'
    FROM now
"""
SETTLED = ["healthy", "reverted", "skipped"]


class Observation(msgspec.Struct, frozen=True):
    agent_id: UUID
    target: protocol.TargetReport
    age_seconds: float = 0.0
    """How long ago the agent said it; of several the youngest counts, and never an older than the row's."""


class Observed(msgspec.Struct, frozen=True):
    written: frozenset[UUID] = frozenset()
    """Targets whose row holds the observation now."""
    rollouts: frozenset[UUID] = frozenset()
    """Moving rollouts in which something changed."""


class _Expected(NamedTuple):
    """What should run on a target, in the order of EXPECTED; all None where nothing was sent."""

    release_id: UUID | None
    version: str | None
    artifact_digest: str | None
    config_digest: str | None

    def cause(self, report: protocol.TargetReport) -> str:
        release_id = str(self.release_id) if self.release_id else ""
        should = drift.Expected(release_id, self.artifact_digest or "", self.config_digest or "")
        return drift.cause(should, report) or ""


@transaction.atomic
def observe(observations: Sequence[Observation], alive: Collection[UUID] = ()) -> Observed:
    """Write what runs on the targets and how it differs from what should, and wake the moving rollouts
    concerned; note that the agents `alive` were heard of now, by the database's clock."""
    reports = [report for item in observations if (report := _clean(item)) is not None]
    expected = _expected([report.target_id for report in reports])
    observed = _write([_row(report, expected.get(report.target_id)) for report in reports], alive, expected)
    for rollout_id in sorted(observed.rollouts):
        queueing.tick(rollout_id)
    return observed


def write(observations: Sequence[Observation]) -> Observed:
    """Write what runs, as reports on tasks say it: drift is left to the heartbeats, waking to the caller."""
    reports = [report for item in observations if (report := _clean(item)) is not None]
    return _write([_row(report, None) for report in reports], (), {}) if reports else Observed()


class _Report(NamedTuple):
    agent_id: UUID
    target_id: UUID
    age_seconds: float
    report: protocol.TargetReport


def _expected(target_ids: Sequence[UUID]) -> dict[UUID, _Expected]:
    if not target_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(EXPECTED, [list(target_ids)])
        return {target_id: _Expected(*rest) for target_id, *rest in cursor.fetchall()}


def _write(
    rows: Sequence[dict[str, Any]], alive: Collection[UUID], expected: Mapping[UUID, _Expected]
) -> Observed:
    """Only an agent's own targets are written, the youngest word on each counts."""
    numbered = [row | {"position": position} for position, row in enumerate(rows)]
    with connection.cursor() as cursor:
        cursor.execute(
            OBSERVE,
            {
                "alive": list(alive),
                "seen": msgspec.json.encode(numbered).decode(),
                "moving": sorted(MOVING),
                "settled": SETTLED,
                "silent": SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds,
            },
        )
        found = cursor.fetchall()
    turned = [news.Turn(*fields) for *fields, has_changed in found if has_changed]
    reports = {(row["agent_id"], row["target_id"]): row["report"] for row in rows}
    told = [
        _with_reason(turn, reports[turn.agent_id, turn.target_id], expected.get(turn.target_id))
        for turn in turned
    ]
    return Observed(frozenset(row[0] for row in found), news.tell(told))


def _with_reason(turn: news.Turn, report: dict[str, Any], expected: _Expected | None) -> news.Turn:
    if not turn.drift or turn.drift == turn.drift_before:
        return turn
    said = msgspec.convert(report, protocol.TargetReport)
    version = (expected.version if expected else "") or ""
    return msgspec.structs.replace(turn, reason=drift.sentence(turn.drift, said, version))


def _clean(item: Observation) -> _Report | None:
    """What agents say, made fit for a row; None without an id of ours."""
    target_id = texts.as_id(item.target.target_id)
    if target_id is None:
        return None
    said = item.target
    report = msgspec.structs.replace(
        said,
        release_id=texts.column(said.release_id, 36),
        artifact_digest=texts.column(said.artifact_digest, 71),
        config_digest=texts.column(said.config_digest, 71),
        modified=tuple(texts.column(path, 300) for path in said.modified[:10]),
        ended=texts.column(said.ended, 200),
        current=texts.column(said.current, 300),
        tree_digest=texts.column(said.tree_digest, 71),
        files_digest=texts.column(said.files_digest, 71),
    )
    return _Report(item.agent_id, target_id, max(item.age_seconds, 0.0), report)


def _row(one: _Report, expected: _Expected | None) -> dict[str, Any]:
    report = one.report
    return {
        "age_seconds": one.age_seconds,
        "agent_id": one.agent_id,
        "target_id": one.target_id,
        "health": report.health,
        "report": msgspec.to_builtins(report) | {"status": report.status, "health": report.health},
        "drift": expected.cause(report) if expected else None,
        "for_release": expected.release_id if expected else None,
    }
