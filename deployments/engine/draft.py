"""The planner's working copy: a snapshot that moves as decisions are made, and the decisions.

Every decision is made through a method here, so that what is planned next sees it.
"""

import dataclasses
import hashlib
from datetime import datetime, timedelta
from uuid import UUID

from deployments.domain.actions import (
    Action,
    CheckAt,
    CloseTask,
    Dispatch,
    MoveBatch,
    MoveRollout,
    MoveTarget,
    Wait,
)
from deployments.domain.snapshot import Snapshot, TargetFacts, TaskFacts
from deployments.domain.states import TASK_OPEN, BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting
from deployments.strategies.base import BatchView, Params

RETRY_BASE_SECONDS = 1.0
RETRY_MAX_SECONDS = 30.0


@dataclasses.dataclass(slots=True)
class DraftTarget:
    facts: TargetFacts
    state: TargetState
    attempts: int
    retry_at: datetime | None
    touched: bool
    error: str
    task: TaskFacts | None
    """The newest task while it is open."""

    @property
    def id(self) -> UUID:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def out_of_service(self) -> bool:
        """Whether it serves nobody right now, or may not: what the unavailability limit counts."""
        return (
            self.state in (TargetState.ACTIVATING, TargetState.REVERTING)
            or (self.state is TargetState.FAILED and self.touched and self.facts.health != "healthy")
            or (self.facts.has_previous and self.facts.health == "unhealthy")
        )


class Draft:
    def __init__(self, snapshot: Snapshot, params: Params, now: datetime) -> None:
        self.snapshot = snapshot
        self.params = params
        self.now = now
        self.state = snapshot.state
        self.actions: list[Action] = []
        self.waiting: Waiting | None = None
        self._checks: list[datetime] = []
        self.targets = [
            DraftTarget(
                facts=facts,
                state=facts.state,
                attempts=facts.attempts,
                retry_at=facts.retry_at,
                touched=facts.touched,
                error=facts.error,
                task=facts.task if facts.task and facts.task.state in TASK_OPEN else None,
            )
            for facts in snapshot.targets
        ]
        self.batches = {
            batch.position: BatchView(
                position=batch.position,
                wave=batch.wave,
                state=batch.state,
                activated_at=batch.activated_at,
            )
            for batch in snapshot.batches
        }
        self._batch_ids = {batch.position: batch.id for batch in snapshot.batches}

    def of_batch(self, position: int) -> list[DraftTarget]:
        return [target for target in self.targets if target.facts.batch == position]

    def in_state(self, *states: TargetState) -> list[DraftTarget]:
        return [target for target in self.targets if target.state in states]

    def move_rollout(self, to: RolloutState, reason: str = "") -> None:
        self.actions.append(MoveRollout(to, reason))
        self.state = to

    def move_batch(self, position: int, to: BatchState) -> None:
        self.actions.append(MoveBatch(self._batch_ids[position], to))
        batch = self.batches[position]
        self.batches[position] = BatchView(
            position=position,
            wave=batch.wave,
            state=to,
            activated_at=self.now if to is BatchState.BAKING else batch.activated_at,
        )

    def move_target(
        self,
        target: DraftTarget,
        to: TargetState,
        *,
        attempts: int = 0,
        retry_at: datetime | None = None,
        error_code: str = "",
        error: str = "",
        log_tail: tuple[str, ...] = (),
    ) -> None:
        self.actions.append(
            MoveTarget(
                id=target.id,
                to=to,
                attempts=attempts,
                retry_at=retry_at,
                error_code=error_code,
                error=error,
                log_tail=log_tail,
            )
        )
        target.state = to
        target.attempts = attempts
        target.retry_at = retry_at
        target.error = error
        target.touched = target.touched or to is TargetState.ACTIVATING

    def dispatch(self, target: DraftTarget, kind: str, timeout_seconds: int) -> None:
        """Give a task; the target must have been moved to the state in which it works."""
        expires_at = self.now + timedelta(seconds=timeout_seconds)
        attempt = (target.facts.task.attempt if target.facts.task else 0) + 1
        self.actions.append(Dispatch(id=target.id, kind=kind, attempt=attempt, expires_at=expires_at))
        target.task = TaskFacts(
            id=target.id, kind=kind, state=TaskState.DISPATCHED, attempt=attempt, expires_at=expires_at
        )

    def close_task(self, target: DraftTarget, to: TaskState, reason: str) -> None:
        assert target.task is not None
        self.actions.append(CloseTask(target.task.id, to, reason))
        target.task = None

    def check_at(self, when: datetime) -> None:
        self._checks.append(when)

    def finish(self) -> list[Action]:
        """Return all decisions, with what is waited for and when to look again."""
        for target in self.targets:
            if target.task is not None:
                self.check_at(target.task.expires_at)
        self.actions.append(Wait(self.waiting))
        self.actions.append(CheckAt(min(self._checks, default=None)))
        return self.actions

    def retry_time(self, target: DraftTarget, attempt: int) -> datetime:
        """When to try again: exponential backoff with full jitter (Brooker, AWS Architecture Blog, 2015).

        The jitter comes from a hash of target and attempt, so that the same snapshot gives the same plan.
        """
        ceiling = min(RETRY_MAX_SECONDS, RETRY_BASE_SECONDS * 2**attempt)
        hashed = hashlib.sha256(f"{target.id}/{attempt}".encode()).digest()
        share = int.from_bytes(hashed[:4], "big") / 2**32
        return self.now + timedelta(seconds=0.2 + share * ceiling)
