"""Carry out what the planner decided, in the caller's transaction: sets of rows, a few statements."""

from datetime import datetime
from typing import Any

import msgspec
from django.db import connection

from deployments.agents import outbox
from deployments.domain.actions import (
    Action,
    CheckAt,
    CloseTask,
    Dispatch,
    MoveBatch,
    MoveRollout,
    MoveTarget,
    PlaceHold,
    Wait,
)
from deployments.domain.snapshot import Snapshot
from deployments.domain.states import WAITING_FOR_SLOT, BatchState, RolloutState, TargetState
from deployments.domain.waiting import Waiting
from deployments.engine import holds
from deployments.engine.transition import Moves
from deployments.events import Change
from deployments.models.base import new_id

# The release of a task follows from its kind: forward it is the rollout's, backward the target's own
# stable one. A target's `release` says what it was last sent to run.
INSERT_TASKS = """
    INSERT INTO deployments_task (
        id, rollout_id, progress_id, target_id, agent_id, release_id, kind, state, attempt, fence,
        expires_at, request_id, error_code, error, log_tail, created_at)
    SELECT new.task, r.id, rt.id, rt.target_id, t.agent_id,
        CASE WHEN new.kind = 'revert' THEN rt.previous_release_id ELSE r.release_id END,
        new.kind, 'dispatched', new.attempt, %(fence)s, new.expires_at, %(request_id)s, '', '', '[]', %(now)s
    FROM jsonb_to_recordset(%(tasks)s::jsonb) AS new(
        task uuid, id uuid, kind text, attempt int, expires_at timestamptz)
    JOIN deployments_rollouttarget rt ON rt.id = new.id
    JOIN deployments_rollout r ON r.id = rt.rollout_id
    JOIN deployments_target t ON t.id = rt.target_id
    ORDER BY rt.position
"""
# Targets are locked in the order of their ids, as commands lock them.
SEND_TARGETS = """
    WITH locked AS (
        SELECT t.id FROM jsonb_to_recordset(%(tasks)s::jsonb) AS new(id uuid, kind text)
        JOIN deployments_rollouttarget rt ON rt.id = new.id
        JOIN deployments_target t ON t.id = rt.target_id
        WHERE new.kind <> 'stage' ORDER BY t.id FOR NO KEY UPDATE OF t)
    UPDATE deployments_target AS t SET
        release_id = CASE WHEN new.kind = 'revert' THEN rt.previous_release_id ELSE r.release_id END,
        release_since = %(now)s, health = 'unknown'
    FROM locked, jsonb_to_recordset(%(tasks)s::jsonb) AS new(id uuid, kind text)
    JOIN deployments_rollouttarget rt ON rt.id = new.id
    JOIN deployments_rollout r ON r.id = rt.rollout_id
    WHERE t.id = locked.id AND t.id = rt.target_id AND new.kind <> 'stage'
"""
# A rollout that tried the rest of an earlier one again makes stable what was healthy there already.
MARK_STABLE = """
    WITH RECURSIVE tried AS (
        SELECT id, retries_id, release_id FROM deployments_rollout WHERE id = %(rollout)s
        UNION SELECT r.id, r.retries_id, r.release_id
        FROM deployments_rollout r JOIN tried ON r.id = tried.retries_id AND r.release_id = tried.release_id),
    locked AS (
        SELECT t.id, t.release_id FROM deployments_target t
        WHERE (t.id, t.release_id) IN (
            SELECT rt.target_id, tried.release_id FROM tried
            JOIN deployments_rollouttarget rt ON rt.rollout_id = tried.id WHERE rt.state = 'healthy')
        ORDER BY t.id FOR NO KEY UPDATE)
    UPDATE deployments_target AS t SET stable_release_id = locked.release_id
    FROM locked WHERE t.id = locked.id
"""
# While it waited for its slot another rollout may have succeeded here.
REFRESH_PREVIOUS = """
    UPDATE deployments_rollouttarget AS rt SET previous_release_id = t.stable_release_id
    FROM deployments_target t
    WHERE t.id = rt.target_id AND rt.rollout_id = %(rollout)s
      AND rt.previous_release_id IS DISTINCT FROM t.stable_release_id
"""
NEXT = """
    UPDATE deployments_rollout SET waiting_on = %(waiting)s::jsonb, next_check_at = %(check)s
    WHERE id = %(rollout)s AND finished_at IS NULL
      AND (waiting_on IS DISTINCT FROM %(waiting)s::jsonb OR next_check_at IS DISTINCT FROM %(check)s)
"""


def apply(actions: list[Action], snapshot: Snapshot, moves: Moves, *, fence: int, now: datetime) -> None:
    """Write all of it; `moves` records events and audit at the end. Raises StaleState."""
    targets = {target.id: target for target in snapshot.targets}
    batches = {batch.id: batch for batch in snapshot.batches}
    target_states = {target.id: target.state for target in snapshot.targets}
    batch_states = {batch.id: batch.state for batch in snapshot.batches}

    moves.close_tasks([action for action in actions if isinstance(action, CloseTask)])
    target_moves = []
    for action in actions:
        if isinstance(action, MoveTarget):
            before: TargetState = target_states[action.id]
            target_moves.append((action, before, targets[action.id].name))
            target_states[action.id] = action.to
    moves.move_targets(target_moves)
    _dispatch([action for action in actions if isinstance(action, Dispatch)], moves, fence, now)
    batch_moves = []
    for action in actions:
        if isinstance(action, MoveBatch):
            left: BatchState = batch_states[action.id]
            batch_moves.append((action, left, f"batch {batches[action.id].position + 1}"))
            batch_states[action.id] = action.to
    moves.move_batches(batch_moves)
    for action in actions:
        if isinstance(action, MoveRollout):
            is_start = action.to is RolloutState.RUNNING and moves.rollout.state in WAITING_FOR_SLOT
            moves.move_rollout(action.to, reason=action.reason, deadline=action.deadline)
            if is_start:
                _execute(REFRESH_PREVIOUS, {"rollout": snapshot.rollout_id})
            if action.to is RolloutState.SUCCEEDED:
                _execute(MARK_STABLE, {"rollout": snapshot.rollout_id})
        elif isinstance(action, PlaceHold):
            placed = holds.place(
                moves.rollout.release_id,
                rollout_id=snapshot.rollout_id,
                reason=action.reason,
                actor=moves.actor,
            )
            moves.changes += [placed] if placed else []
    _wait(actions, snapshot, moves, now)


def _dispatch(dispatches: list[Dispatch], moves: Moves, fence: int, now: datetime) -> None:
    if not dispatches:
        return
    rows = [msgspec.to_builtins(action) | {"task": str(new_id())} for action in dispatches]
    values = {
        "tasks": msgspec.json.encode(rows).decode(),
        "fence": fence,
        "request_id": moves.actor.request_id,
        "now": now,
    }
    _execute(INSERT_TASKS, values)
    if any(action.kind != "stage" for action in dispatches):
        _execute(SEND_TARGETS, values)
    outbox.notify()


def _wait(actions: list[Action], snapshot: Snapshot, moves: Moves, now: datetime) -> None:
    waiting: Waiting | None = None
    check: datetime | None = None
    for action in actions:
        if isinstance(action, Wait):
            waiting = action.waiting
        elif isinstance(action, CheckAt):
            check = action.when
    if waiting is not None:
        goes_on = waiting.same_as(snapshot.waiting_on)
        since = waiting.since or (snapshot.waiting_on.since if goes_on and snapshot.waiting_on else now)
        waiting = msgspec.structs.replace(waiting, since=since)
        if not goes_on:
            moves.changes.append(
                Change(
                    verb="rollout.waiting",
                    object_kind="rollout",
                    object_id=str(snapshot.rollout_id),
                    object_name=snapshot.title,
                    event="rollout.waiting",
                    audited=False,
                    data={"waiting_on": msgspec.to_builtins(waiting)},
                )
            )
    text = msgspec.json.encode(waiting).decode() if waiting else None
    _execute(NEXT, {"waiting": text, "check": check, "rollout": snapshot.rollout_id})


def _execute(statement: str, values: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
