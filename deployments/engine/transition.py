"""The only writer of `.state`: every move is a conditional update, and leaves its event and audit entry.

A `Moves` is opened on a rollout whose row is locked. It writes sets, not rows: a batch of fifty targets
costs the statements of one. A row that is no longer where the caller saw it raises StaleState, and the
transaction with it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from deployments import events
from deployments.agents import outbox
from deployments.domain.actions import CloseTask, MoveBatch, MoveTarget
from deployments.domain.actor import Actor
from deployments.domain.states import (
    ACTIVE,
    ALLOWED,
    MOVING,
    TASK_OPEN,
    BatchState,
    RolloutState,
    TargetState,
    TaskState,
)
from deployments.engine import slots
from deployments.errors import MoveNotAllowed, StaleState
from deployments.models import Rollout

ROLLOUT = """
    UPDATE deployments_rollout SET
        state = %(to)s, state_since = %(now)s, outcome = %(outcome)s,
        started_at = CASE WHEN %(to)s = 'running' THEN coalesce(started_at, %(now)s) ELSE started_at END,
        finished_at = CASE WHEN %(ended)s THEN %(now)s ELSE finished_at END,
        deadline_at = coalesce(%(deadline)s::timestamptz, deadline_at),
        waiting_on = CASE WHEN %(ended)s THEN NULL ELSE waiting_on END,
        next_check_at = CASE WHEN %(ended)s THEN NULL ELSE next_check_at END
    WHERE id = %(id)s AND state = %(from)s
"""
BATCHES = """
    UPDATE deployments_batch AS row SET
        state = move."to",
        started_at = CASE WHEN move."to" = 'running' THEN coalesce(row.started_at, %(now)s)
                          ELSE row.started_at END,
        activated_at = CASE WHEN move."to" = 'baking' THEN %(now)s ELSE row.activated_at END,
        finished_at = CASE WHEN move."to" IN ('succeeded', 'failed') THEN %(now)s ELSE NULL END,
        deadline_at = CASE WHEN move."to" = 'running' THEN move.deadline ELSE row.deadline_at END
    FROM jsonb_to_recordset(%(moves)s::jsonb) AS move(
        id uuid, "from" text, "to" text, deadline timestamptz)
    WHERE row.id = move.id AND row.state = move."from" AND row.rollout_id = %(rollout)s
"""
DEADLINES = """
    UPDATE deployments_batch SET deadline_at =
        CASE WHEN deadline_at + %(paused)s > %(now)s THEN deadline_at + %(paused)s
             ELSE %(now)s + %(least)s END
    WHERE rollout_id = %(rollout)s AND state = 'running' AND deadline_at IS NOT NULL
"""
TARGETS = """
    UPDATE deployments_rollouttarget AS row SET
        state = move."to", state_since = %(now)s, attempts = move.attempts, retry_at = move.retry_at,
        touched = row.touched OR move."to" = 'activating', error_code = move.error_code,
        error = left(move.error, 1000), log_tail = move.log_tail
    FROM jsonb_to_recordset(%(moves)s::jsonb) AS move(
        id uuid, "from" text, "to" text, attempts int, retry_at timestamptz, error_code text, error text,
        log_tail jsonb)
    WHERE row.id = move.id AND row.state = move."from" AND row.rollout_id = %(rollout)s
"""
TASKS = """
    UPDATE deployments_task AS row SET
        state = move."to", error_code = move."to", error = left(move.reason, 1000), finished_at = %(now)s
    FROM jsonb_to_recordset(%(moves)s::jsonb) AS move(id uuid, "to" text, reason text)
    WHERE row.id = move.id AND row.state = ANY(%(open)s) AND row.rollout_id = %(rollout)s
"""
# What agents said since the last tick. Of several reports on one task the final one counts; one that
# names another attempt or fence than the row has is history, and one on a closed task comes too late.
REPORTS = """
    WITH taken AS (
        UPDATE deployments_taskreport SET taken_at = %(now)s
        WHERE rollout_id = %(rollout)s AND taken_at IS NULL
        RETURNING task_id, attempt, fence, status, code, message, log_tail, id),
    latest AS (
        SELECT DISTINCT ON (task_id) * FROM taken ORDER BY task_id, (status = 'accepted'), id)
    UPDATE deployments_task AS row SET
        state = CASE WHEN latest.status IN ('accepted', 'succeeded') THEN latest.status ELSE 'failed' END,
        error_code = CASE WHEN latest.status IN ('refused', 'cancelled') AND latest.code = ''
                          THEN latest.status ELSE latest.code END,
        error = latest.message, log_tail = latest.log_tail,
        finished_at = CASE WHEN latest.status = 'accepted' THEN NULL ELSE %(now)s END
    FROM latest
    WHERE row.id = latest.task_id AND row.attempt = latest.attempt AND row.fence = latest.fence
      AND row.state = ANY(%(open)s) AND row.state <> latest.status
    RETURNING row.id, row.kind, row.state, row.error_code
"""


class Moves:
    """The moves of one rollout within one transaction; `record` at the end writes what happened."""

    def __init__(self, rollout: Rollout, *, actor: Actor, now: datetime) -> None:
        self.rollout = rollout
        self.actor = actor
        self.now = now
        self.changes: list[events.Change] = []
        self._slot_freed = False

    def move_rollout(
        self,
        to: RolloutState,
        *,
        reason: str = "",
        verb: str = "rollout.state",
        deadline: datetime | None = None,
    ) -> None:
        """Move the rollout; raises MoveNotAllowed (not in the table) or StaleState (moved meanwhile)."""
        before = RolloutState(self.rollout.state)
        if to not in ALLOWED[before]:
            now, then = (state.replace("_", " ") for state in (before, to))
            raise MoveNotAllowed(f"The rollout is {now}; it cannot become {then}. Look at it again.")
        values = {
            "id": self.rollout.id,
            "from": before,
            "to": to,
            "now": self.now,
            "outcome": reason[:1000],
            "ended": to not in ACTIVE,
            "deadline": deadline,
        }
        self._expect(ROLLOUT, values, 1)
        self.rollout.state = to
        self._slot_freed = before in MOVING and to not in ACTIVE
        self.rollout.outcome = reason[:1000]
        self.changes.append(
            events.done(
                verb,
                self.rollout,
                before={"state": before},
                after={"state": to},
                reason=reason,
                event="rollout.state",
            )
        )

    def move_batches(self, moves: Iterable[tuple[MoveBatch, BatchState, str]]) -> None:
        """Each move comes with the state that it leaves and the batch's name."""
        for some in _rounds([(move.id, (move, before, name)) for move, before, name in moves]):
            rows = [msgspec.to_builtins(move) | {"from": before} for move, before, _ in some]
            self._write(BATCHES, rows)
            self.changes += [
                _changed("batch", move.id, name, before=before, after=move.to) for move, before, name in some
            ]

    def move_targets(self, moves: Iterable[tuple[MoveTarget, TargetState, str]]) -> None:
        """Each move comes with the state that it leaves and the target's name."""
        for some in _rounds([(move.id, (move, before, name)) for move, before, name in moves]):
            rows = [msgspec.to_builtins(move) | {"from": before} for move, before, _ in some]
            self._write(TARGETS, rows)
            self.changes += [
                _changed(
                    "target",
                    move.id,
                    name,
                    before=before,
                    after=move.to,
                    reason=move.error,
                    code=move.error_code,
                )
                for move, before, name in some
            ]

    def close_tasks(self, moves: Sequence[CloseTask]) -> None:
        self._write(TASKS, [msgspec.to_builtins(move) for move in moves], open=sorted(TASK_OPEN))
        if any(move.to is TaskState.CANCELLED for move in moves):
            outbox.notify()
        self.changes += [
            events.Change(
                verb=f"task.{move.to}",
                object_kind="task",
                object_id=str(move.id),
                after={"state": move.to},
                reason=move.reason,
            )
            for move in moves
        ]

    def take_reports(self) -> None:
        """Move tasks as their agents reported; what is stale or repeated changes nothing."""
        with connection.cursor() as cursor:
            cursor.execute(REPORTS, {"now": self.now, "rollout": self.rollout.id, "open": sorted(TASK_OPEN)})
            rows = cursor.fetchall()
        self.changes += [
            events.Change(
                verb=f"task.{state}",
                object_kind="task",
                object_id=str(task_id),
                object_name=kind,
                after={"state": state} | ({"code": code} if code else {}),
            )
            for task_id, kind, state, code in rows
        ]

    def give_time(self, paused: timedelta, *, at_least: timedelta) -> None:
        """Move the deadlines of batches at work on by what the rollout stood paused, after the move."""
        values: dict[str, Any] = {"paused": paused, "least": at_least, "now": self.now}
        with connection.cursor() as cursor:
            cursor.execute(DEADLINES, values | {"rollout": self.rollout.id})

    def record(self) -> None:
        events.record(actor=self.actor, changes=self.changes, rollout_id=self.rollout.id)
        self.changes = []
        if self._slot_freed:
            slots.wake(self.now)
            self._slot_freed = False

    def _write(self, statement: str, rows: list[dict[str, Any]], **values: Any) -> None:
        if not rows:
            return
        payload = msgspec.json.encode(rows).decode()
        values |= {"moves": payload, "now": self.now, "rollout": self.rollout.id}
        self._expect(statement, values, len(rows))

    def _expect(self, statement: str, values: dict[str, Any], count: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            if cursor.rowcount != count:
                raise StaleState


def _changed(
    kind: str, subject: UUID, name: str, *, before: str, after: str, reason: str = "", code: str = ""
) -> events.Change:
    return events.Change(
        verb=f"{kind}.{after}",
        object_kind=kind,
        object_id=str(subject),
        object_name=name,
        before={"state": before},
        after={"state": after} | ({"error_code": code} if code else {}),
        reason=reason,
        event=f"{kind}.state",
    )


def _rounds(moves: list[tuple[UUID, Any]]) -> list[list[Any]]:
    """Split into lists in which each id occurs once: one statement moves a row only once."""
    rounds: list[list[Any]] = []
    seen: dict[UUID, int] = {}
    for key, move in moves:
        turn = seen.get(key, 0)
        seen[key] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(move)
    return rounds
