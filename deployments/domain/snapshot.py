"""Everything that the planner sees of one rollout, frozen at one moment."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from deployments.domain.queue import Slot
from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    kind: str
    state: TaskState
    attempt: int
    expires_at: datetime
    given_at: datetime | None = None
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
    previous_held: bool = False
    """Whether the release that it would go back to is on hold."""
    health: str
    """As the agent last reported: healthy, unhealthy or unknown."""
    reported_at: datetime | None
    error_code: str = ""
    error: str
    agent: str
    agent_silent: bool
    """Whether it missed three heartbeats: what it last said of its targets counts no longer."""
    agent_seen_at: datetime | None = None
    agent_connected_at: datetime | None = None
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
    deadline_at: datetime | None = None


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
    params: dict[str, Any]
    waiting_on: Waiting | None
    created_at: datetime | None = None
    deadline_at: datetime | None = None
    hold: str | None = None
    """Why the release is on hold; None: it is not."""
    is_stable_here: bool = False
    """Whether a target would go back to the very release that is rolled out."""
    slot: Slot | None = None
    """While it waits for a slot: whether it may start, and its place in the queue."""
    batches: tuple[BatchFacts, ...]
    targets: tuple[TargetFacts, ...]
