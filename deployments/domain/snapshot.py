"""Everything that the planner sees of one rollout, frozen at one moment."""

from datetime import datetime
from uuid import UUID

import msgspec

from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    kind: str
    state: TaskState
    attempt: int
    expires_at: datetime
    error_code: str = ""
    error: str = ""
    log_tail: tuple[str, ...] = ()


class TargetFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    """Of the RolloutTarget."""
    target_id: UUID
    name: str
    batch: int
    """Position of its batch."""
    state: TargetState
    state_since: datetime
    attempts: int
    retry_at: datetime | None
    touched: bool
    has_previous: bool
    health: str
    """As the agent last reported: healthy, unhealthy or unknown."""
    reported_at: datetime | None
    error: str
    agent: str
    agent_silent: bool
    """Whether it missed three heartbeats: what it last said of its targets counts no longer."""
    reports_release: bool
    """Whether the last report speaks of this rollout's release, and not of what ran before."""
    task: TaskFacts | None = None
    """The newest task."""


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    position: int
    wave: str
    state: BatchState
    activated_at: datetime | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    rollout_id: UUID
    state: RolloutState
    state_since: datetime
    kind: str
    outcome: str
    """Why it stands where it stands, as the last move said."""
    title: str
    """`orders 1.2 to prod`, for sentences."""
    strategy: str
    params: dict[str, int | str | bool]
    waiting_on: Waiting | None
    batches: tuple[BatchFacts, ...]
    targets: tuple[TargetFacts, ...]
