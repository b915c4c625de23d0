"""Every state and every move between states. `engine.transition` obeys it, the database enforces it."""

from enum import StrEnum


class RolloutState(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class BatchState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    BAKING = "baking"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class TargetState(StrEnum):
    """How far one target has come within one rollout."""

    PENDING = "pending"
    STAGING = "staging"
    STAGED = "staged"
    ACTIVATING = "activating"
    HEALTHY = "healthy"
    FAILED = "failed"
    REVERTING = "reverting"
    REVERTED = "reverted"
    SKIPPED = "skipped"


class TaskState(StrEnum):
    DISPATCHED = "dispatched"
    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


R, B, T, K = RolloutState, BatchState, TargetState, TaskState

ALLOWED: dict[RolloutState, frozenset[RolloutState]] = {
    R.PENDING: frozenset({R.QUEUED, R.FAILED, R.CANCELLED, R.SUPERSEDED}),
    R.QUEUED: frozenset({R.RUNNING, R.FAILED, R.CANCELLED, R.SUPERSEDED}),
    R.RUNNING: frozenset({R.PAUSED, R.SUCCEEDED, R.ROLLING_BACK, R.FAILED, R.CANCELLED}),
    R.PAUSED: frozenset({R.RUNNING, R.ROLLING_BACK, R.FAILED, R.CANCELLED}),
    R.ROLLING_BACK: frozenset({R.ROLLED_BACK, R.FAILED}),
    R.SUCCEEDED: frozenset(),
    R.ROLLED_BACK: frozenset(),
    R.FAILED: frozenset(),
    R.CANCELLED: frozenset(),
    R.SUPERSEDED: frozenset(),
}

ALLOWED_BATCH: dict[BatchState, frozenset[BatchState]] = {
    B.PENDING: frozenset({B.RUNNING}),
    B.RUNNING: frozenset({B.BAKING, B.SUCCEEDED, B.FAILED}),
    B.BAKING: frozenset({B.SUCCEEDED, B.FAILED}),
    B.SUCCEEDED: frozenset({B.FAILED}),
    B.FAILED: frozenset({B.RUNNING}),
}

ALLOWED_TARGET: dict[TargetState, frozenset[TargetState]] = {
    T.PENDING: frozenset({T.STAGING, T.SKIPPED}),
    T.STAGING: frozenset({T.STAGED, T.FAILED, T.PENDING, T.SKIPPED}),
    T.STAGED: frozenset({T.ACTIVATING, T.REVERTING, T.SKIPPED}),
    T.ACTIVATING: frozenset({T.HEALTHY, T.FAILED, T.STAGED, T.REVERTING, T.SKIPPED}),
    T.HEALTHY: frozenset({T.FAILED, T.REVERTING, T.SKIPPED}),
    T.FAILED: frozenset({T.REVERTING, T.PENDING, T.STAGED, T.SKIPPED}),
    T.REVERTING: frozenset({T.REVERTED, T.FAILED}),
    T.REVERTED: frozenset(),
    T.SKIPPED: frozenset({T.REVERTING}),
}

ALLOWED_TASK: dict[TaskState, frozenset[TaskState]] = {
    K.DISPATCHED: frozenset({K.ACCEPTED, K.SUCCEEDED, K.FAILED, K.EXPIRED, K.CANCELLED}),
    K.ACCEPTED: frozenset({K.SUCCEEDED, K.FAILED, K.EXPIRED, K.CANCELLED}),
    K.SUCCEEDED: frozenset(),
    K.FAILED: frozenset(),
    K.EXPIRED: frozenset(),
    K.CANCELLED: frozenset(),
}

TERMINAL = frozenset(state for state, moves in ALLOWED.items() if not moves)
ACTIVE = frozenset(ALLOWED) - TERMINAL
WAITING_FOR_SLOT = frozenset({R.PENDING, R.QUEUED})
MOVING = ACTIVE - WAITING_FOR_SLOT
"""What holds a slot: of these there is one for a service in an environment."""
TASK_OPEN = frozenset({K.DISPATCHED, K.ACCEPTED})
