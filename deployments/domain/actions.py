"""What the planner may decide. `engine.apply` carries each out; nothing else changes a rollout's progress."""

from datetime import datetime
from uuid import UUID

import msgspec

from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting


class MoveRollout(msgspec.Struct, frozen=True):
    to: RolloutState
    reason: str = ""
    deadline: datetime | None = None
    """When it has to be done; None leaves it as it is."""


class MoveBatch(msgspec.Struct, frozen=True):
    id: UUID
    to: BatchState
    deadline: datetime | None = None


class MoveTarget(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    to: TargetState
    attempts: int = 0
    retry_at: datetime | None = None
    error_code: str = ""
    error: str = ""
    log_tail: tuple[str, ...] = ()


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """Give a task to the target's agent."""

    id: UUID
    """Of the RolloutTarget."""
    kind: str
    """`stage`, `activate` or `revert`."""
    attempt: int
    expires_at: datetime


class CloseTask(msgspec.Struct, frozen=True):
    """End an open task without the agent's word: expired or cancelled."""

    id: UUID
    to: TaskState
    reason: str = ""


class PlaceHold(msgspec.Struct, frozen=True):
    """Keep the rollout's release out until somebody lifts the hold."""

    reason: str


class Wait(msgspec.Struct, frozen=True):
    """State what is waited for; None at an end."""

    waiting: Waiting | None


class CheckAt(msgspec.Struct, frozen=True):
    """Look again then, if nothing happens before; None: only when something happens."""

    when: datetime | None


Action = MoveRollout | MoveBatch | MoveTarget | Dispatch | CloseTask | PlaceHold | Wait | CheckAt
