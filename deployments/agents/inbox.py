"""Reports of the agents: rows first, then the engine is woken.

A report counts only when task, agent, attempt and fence are those of the task's row. Everything that
was understood is acknowledged, also what does not count, so that an agent never repeats it for ever.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction

from deployments import protocol, queueing
from deployments.agents import texts
from deployments.agents.observations import Observation, write

INSERT = """
    WITH report AS (
        SELECT * FROM jsonb_to_recordset(%s::jsonb) AS report(
            agent_id uuid, task_id uuid, attempt smallint, fence bigint, status text, code text,
            message text, log_tail jsonb)
    ), matched AS (
        SELECT report.*, task.rollout_id FROM report JOIN deployments_task task
          ON task.id = report.task_id AND task.agent_id = report.agent_id
         AND task.attempt = report.attempt AND task.fence = report.fence
    ), inserted AS (
        INSERT INTO deployments_taskreport
            (task_id, rollout_id, attempt, fence, status, code, message, log_tail)
        SELECT task_id, rollout_id, attempt, fence, status, code, message, log_tail FROM matched
        ON CONFLICT (task_id, attempt, status) DO NOTHING
        RETURNING rollout_id, status
    )
    SELECT (SELECT count(*) FROM matched), (SELECT count(*) FROM inserted),
           ARRAY(SELECT DISTINCT rollout_id FROM inserted WHERE status <> 'accepted')
"""
# That an agent has begun decides nothing: the next tick takes it up, whatever that comes for.

Report = tuple[UUID, protocol.TaskReport]
"""Agent id (as its connection proved it) and what it said."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a number of reports."""

    acks: tuple[tuple[UUID, protocol.Ack], ...]
    """To be sent to these agents, one for each report."""
    new: int = 0
    duplicates: int = 0
    refused: int = 0
    """Of another agent's task, of none, or with another attempt or fence."""


def accept(reports: Sequence[Report], ages_seconds: Sequence[float] = ()) -> Accepted:
    """Write the reports in one statement and wake the engine for each rollout concerned, atomically.

    `ages_seconds` says of each how long ago the agent said it; without, all are of now.
    """
    if not reports:
        return Accepted(acks=())
    rows = [row for agent_id, report in reports if (row := _row(agent_id, report))]
    seen = [
        Observation(agent_id=agent_id, target=report.target, age_seconds=age)
        for (agent_id, report), age in zip(reports, ages_seconds or repeat(0.0), strict=False)
        if report.target
    ]
    with transaction.atomic():
        # What runs is written before the wake-up: the tick must not see the target as it was.
        observed = write(seen)
        with connection.cursor() as cursor:
            cursor.execute(INSERT, [msgspec.json.encode(rows).decode()])
            matched, new, rollouts = cursor.fetchone()
        for rollout_id in sorted(observed.rollouts.union(rollouts)):
            queueing.tick(rollout_id)
    return Accepted(
        acks=tuple((agent_id, _ack(report)) for agent_id, report in reports),
        new=new,
        duplicates=matched - new,
        refused=len(reports) - matched,
    )


def _ack(report: protocol.TaskReport) -> protocol.Ack:
    return protocol.Ack(task_id=report.task_id, attempt=report.attempt, status=report.status)


def _row(agent_id: UUID, report: protocol.TaskReport) -> dict[str, Any] | None:
    """The report as a row, or None when its numbers cannot be those of any task."""
    task_id = texts.as_id(report.task_id)
    in_range = 0 <= report.attempt <= texts.SMALLINT_MAX and 0 <= report.fence <= texts.BIGINT_MAX
    if task_id is None or not in_range:
        return None
    return {
        "agent_id": agent_id,
        "task_id": task_id,
        "attempt": report.attempt,
        "fence": report.fence,
        "status": report.status,
        "code": texts.column(report.code, 64),
        "message": texts.column(report.message, 1000),
        "log_tail": texts.tail(report.log_tail),
    }
