"""The planner's working copy: a snapshot that moves as decisions are made, and the decisions.

Every decision is made through a method here, so that what is planned next sees it.
"""

import dataclasses
import hashlib
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

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
from deployments.domain.snapshot import Snapshot, TargetFacts, TaskFacts
from deployments.domain.states import TASK_OPEN, BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting
from deployments.strategies.base import BatchView, Params, size


@dataclasses.dataclass(slots=True)
class DraftTarget:
    facts: TargetFacts
    state: TargetState
    attempts: int
    retry_at: datetime | None
    touched: bool
    error_code: str
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
            or (
                self.state in (TargetState.FAILED, TargetState.STAGED)
                and self.touched
                and self.facts.health != "healthy"
            )
            or (self.facts.has_previous and self.facts.health == "unhealthy")
            or (self.facts.agent_silent and (self.touched or self.facts.has_previous))
        )


class Draft:
    def __init__(self, snapshot: Snapshot, params: Params, now: datetime) -> None:
        self.snapshot = snapshot
        self.params = params
        self.now = now
        self.state = snapshot.state
        self.outcome = snapshot.outcome
        self.deadline_at = snapshot.deadline_at
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
                error_code=facts.error_code,
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
        self.batch_deadlines = {batch.position: batch.deadline_at for batch in snapshot.batches}
        self._batch_ids = {batch.position: batch.id for batch in snapshot.batches}
        self._members: dict[int, list[DraftTarget]] = {batch.position: [] for batch in snapshot.batches}
        for target in self.targets:
            self._members[target.facts.batch].append(target)

    def of_batch(self, position: int) -> list[DraftTarget]:
        return self._members[position]

    def in_state(self, *states: TargetState) -> list[DraftTarget]:
        return [target for target in self.targets if target.state in states]

    @property
    def is_held(self) -> bool:
        """Whether its release went on hold, so that it must not go further."""
        return self.snapshot.kind == "deploy" and self.snapshot.hold is not None

    def down(self) -> list[DraftTarget]:
        """Targets that failed after they were changed: they serve nobody until somebody acts."""
        return [
            target
            for target in self.in_state(TargetState.FAILED)
            if target.touched and target.facts.health != "healthy"
        ]

    def ways_on(self) -> tuple[str, ...]:
        """What people can do about targets that are not done."""
        retry = ("retry",) if self.in_state(TargetState.FAILED) else ()
        undone = (TargetState.PENDING, TargetState.STAGING, TargetState.STAGED, TargetState.FAILED)
        return (*retry, "skip") if self.in_state(*undone) else retry

    def unavailability_limit(self, *, default: int) -> int:
        value = self.params.max_unavailable
        return default if value == 0 else size(value, len(self.targets), "max_unavailable")

    def move_rollout(self, to: RolloutState, reason: str = "", *, deadline: datetime | None = None) -> None:
        self.actions.append(MoveRollout(to, reason, deadline))
        self.state = to
        self.outcome = reason
        self.deadline_at = deadline or self.deadline_at

    def move_batch(self, position: int, to: BatchState) -> None:
        deadline = None
        if to is BatchState.RUNNING:
            deadline = self.now + timedelta(seconds=self.params.batch_timeout_seconds)
            self.batch_deadlines[position] = deadline
        self.actions.append(MoveBatch(self._batch_ids[position], to, deadline))
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
        target.error_code = error_code
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

    def place_hold(self, reason: str) -> None:
        self.actions.append(PlaceHold(reason))

    def check_at(self, when: datetime) -> None:
        self._checks.append(when)

    def finish(self) -> list[Action]:
        """Return all decisions, with what is waited for and when to look again."""
        for target in self.targets:
            if target.task is not None and target.task.expires_at > self.now:
                self.check_at(target.task.expires_at)
        if self.state is RolloutState.RUNNING:
            self._keep_deadlines()
        if self.waiting is not None:
            ways = tuple(verb for verb in self.waiting.unblock if self._is_open(verb))
            self.waiting = msgspec.structs.replace(self.waiting, unblock=ways)
        self.actions.append(Wait(self.waiting))
        self.actions.append(CheckAt(min(self._checks, default=None)))
        return self.actions

    def _is_open(self, verb: str) -> bool:
        """Whether a command that a wait names would be accepted as things stand."""
        match verb:
            case "skip":
                return len(self.targets) - len(self.in_state(TargetState.SKIPPED)) > 1
            case "resume" | "retry":
                return not self.is_held
            case "rollback":
                return not any(target.touched and target.facts.previous_held for target in self.targets)
        return True

    def _keep_deadlines(self) -> None:
        """Look again when batch or rollout run out of time; a wait without an end of its own has theirs."""
        running = [one.position for one in self.batches.values() if one.state is BatchState.RUNNING]
        ends = [end for end in map(self.batch_deadlines.get, running) if end is not None]
        if self.deadline_at is not None:
            ends.append(self.deadline_at)
        for end in ends:
            self.check_at(end)
        if ends and self.waiting is not None and self.waiting.deadline is None:
            self.waiting = msgspec.structs.replace(self.waiting, deadline=min(ends))

    def retry_time(self, target: DraftTarget, attempt: int) -> datetime:
        """When to try again: exponential backoff with full jitter (Brooker, AWS Architecture Blog, 2015).

        The jitter comes from a hash of target and attempt, so that the same snapshot gives the same plan.
        """
        ceiling = min(self.params.retry_max_seconds, self.params.retry_base_seconds * 2**attempt)
        hashed = hashlib.sha256(f"{target.id}/{attempt}".encode()).digest()
        share = int.from_bytes(hashed[:4], "big") / 2**32
        return self.now + timedelta(seconds=0.2 + share * ceiling)
