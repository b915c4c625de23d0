"""Tasks on their way to the agents: rows first, frames afterwards.

A task is marked as sent before its frame is written to a socket. What is lost in between, with the web
process or with the connection, is sent again when the agent connects anew; the agent's journal makes a
second delivery harmless.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from django.db import connection, transaction

from deployments import protocol
from deployments.agents import inbox
from deployments.agents.instructions import OpenTask, frame, load_releases
from deployments.agents.signing import sign
from deployments.domain.states import TASK_OPEN
from deployments.errors import Invalid
from deployments.models.base import new_id

CHANNEL = "slipway_outbox"

# Row locks are skipped, not waited for: a task whose row the engine holds is about to change, and the
# next look (a notification, or the poll two seconds later) finds it if it is still to be sent.
# The mark need not reach the disk: what a crash forgets to have sent is sent again.
TAKE = """
    WITH due AS (
        SELECT task.id FROM deployments_task task JOIN deployments_agent agent ON agent.id = task.agent_id
        WHERE {whose} AND task.state = ANY(%(open)s) AND task.expires_at > now()
          AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
          AND (task.sent_at IS NULL OR task.sent_at < agent.connected_at)
        ORDER BY task.id LIMIT %(limit)s FOR UPDATE OF task SKIP LOCKED)
    UPDATE deployments_task task SET sent_at = clock_timestamp()
    FROM due, deployments_target target, deployments_region region, deployments_environment environment,
         deployments_service service
    WHERE task.id = due.id AND target.id = task.target_id AND region.id = target.region_id
      AND environment.id = region.environment_id AND service.id = target.service_id
    RETURNING task.id, task.agent_id, task.rollout_id, task.release_id, task.kind, task.attempt, task.fence,
        task.expires_at, task.request_id, target.id, target.name, target.variables, region.name,
        environment.name, service.name
"""
# Skipped here as well, but not lost: the agents of what was skipped are returned, to be looked at again.
FORGET = """
    WITH sent AS (
        SELECT id FROM deployments_task
        WHERE agent_id = ANY(%(agents)s) AND state = ANY(%(open)s) AND sent_at IS NOT NULL
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED),
    forgotten AS (
        UPDATE deployments_task task SET sent_at = NULL FROM sent WHERE task.id = sent.id)
    SELECT DISTINCT task.agent_id FROM deployments_task task
    WHERE task.agent_id = ANY(%(agents)s) AND task.state = ANY(%(open)s) AND task.sent_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM sent WHERE sent.id = task.id)
"""
# Tasks that were sent and then cancelled: their agents are to give them up. What was said to a connection
# that is gone is said again, and what the agent has answered by now is not.
CANCEL = """
    WITH due AS (
        SELECT task.id FROM deployments_task task JOIN deployments_agent agent ON agent.id = task.agent_id
        WHERE {whose} AND task.state = 'cancelled' AND task.expires_at > now()
          AND task.sent_at IS NOT NULL
          AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
          AND (task.cancel_sent_at IS NULL OR task.cancel_sent_at < agent.connected_at)
          AND NOT EXISTS (SELECT FROM deployments_taskreport report
                          WHERE report.task_id = task.id AND report.status <> 'accepted')
        ORDER BY task.id LIMIT %(limit)s FOR NO KEY UPDATE OF task SKIP LOCKED)
    UPDATE deployments_task task SET cancel_sent_at = clock_timestamp()
    FROM due, deployments_target target WHERE task.id = due.id AND target.id = task.target_id
    RETURNING task.id, task.agent_id, task.rollout_id, task.attempt, task.fence, task.expires_at,
        task.request_id, target.id, target.name
"""
BY_ID = "task.agent_id = ANY(%(agents)s)"
HELD_BY = "starts_with(agent.connected_to, %(agents)s || '/')"
FIELDS = OpenTask.__slots__
AT_ONCE = 1000
"""Tasks taken in one go; whoever gets as many looks again."""

Agents = list[UUID] | str
"""Some by their ids; or all whose sockets a web process holds, by its name, which costs what there is to
send and not what is connected."""
Sent = tuple[UUID, UUID, str]
"""Agent id, task id, frame."""

OPEN_STATES = sorted(TASK_OPEN)


def notify() -> None:
    """Tell the web processes, when the caller's transaction commits, that there are tasks to send."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


def take(agents: Agents) -> list[Sent]:
    """Mark the unsent tasks of these agents as sent; return (agent id, task id, frame), oldest first.

    Three statements, however many tasks. A task whose configuration cannot be resolved for its target
    is answered here, as a report `failed` with code `invalid_config`, and holds nobody else back.
    """
    if not agents:
        return []
    frames: list[Sent] = []
    failures: list[tuple[UUID, protocol.TaskReport]] = []
    with transaction.atomic():
        tasks = _mark(agents)
        releases = load_releases({task.release_id for task in tasks if task.release_id})
        for task in tasks:
            try:
                frames.append((task.agent_id, task.task_id, frame(task, releases)))
            except Invalid as error:
                failures.append((task.agent_id, _invalid_config(task, error)))
        inbox.accept(failures)
    return frames


def cancel(agents: Agents) -> list[Sent]:
    """Return a frame for each task of these agents that was sent and then cancelled, once a connection."""
    if not agents:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_of(CANCEL, agents), {"agents": agents, "limit": AT_ONCE})
        rows = cursor.fetchall()
    return [
        (agent_id, task_id, sign(_cancel(task_id, agent_id, *rest)))
        for task_id, agent_id, *rest in sorted(rows)
    ]


def resend(agent_ids: list[UUID]) -> tuple[list[Sent], set[UUID]]:
    """As `take`, with the open tasks that were sent before: for agents that have just connected.

    Also returns the agents some of whose tasks were locked: they are to be asked for once more.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(FORGET, {"agents": agent_ids, "open": OPEN_STATES})
            skipped = {agent_id for (agent_id,) in cursor.fetchall()}
        return take(agent_ids), skipped


def _of(statement: str, agents: Agents) -> str:
    return statement.format(whose=HELD_BY if isinstance(agents, str) else BY_ID)


def _mark(agents: Agents) -> list[OpenTask]:
    with connection.cursor() as cursor:
        cursor.execute(_of(TAKE, agents), {"agents": agents, "open": OPEN_STATES, "limit": AT_ONCE})
        rows = cursor.fetchall()
    # Django hands jsonb out as text on a plain cursor.
    facts = [dict(zip(FIELDS, row, strict=True)) for row in rows]
    tasks = [OpenTask(**fact | {"variables": msgspec.json.decode(fact["variables"])}) for fact in facts]
    return sorted(tasks, key=lambda task: task.task_id)


def _cancel(
    task_id: UUID,
    agent_id: UUID,
    rollout_id: UUID,
    attempt: int,
    fence: int,
    expires_at: datetime,
    request_id: str,
    target_id: UUID,
    target_name: str,
) -> protocol.Cancel:
    return protocol.Cancel(
        agent_id=str(agent_id),
        task_id=str(new_id()),
        attempt=attempt,
        fence=fence,
        expires_at=expires_at.timestamp(),
        target_id=str(target_id),
        target_name=target_name,
        rollout_id=str(rollout_id),
        request_id=request_id,
        cancels=str(task_id),
    )


def _invalid_config(task: OpenTask, error: Invalid) -> protocol.TaskReport:
    return protocol.TaskReport(
        task_id=str(task.task_id),
        attempt=task.attempt,
        fence=task.fence,
        status="failed",
        code="invalid_config",
        message=error.message,
    )
