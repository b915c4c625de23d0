"""Which targets of a rollout a person may choose: one rule for what is offered and for what is taken."""

from deployments.domain.states import TargetState

T = TargetState

SKIPPABLE = frozenset({T.PENDING, T.STAGING, T.STAGED, T.FAILED})
"""May be left out at any time: nothing is being changed there."""
SKIPPABLE_SILENT = frozenset({T.ACTIVATING, T.HEALTHY})
"""May be left out only while nobody hears of their agent: the rollout may wait for its word."""


def may_skip(state: TargetState, *, silent: bool) -> bool:
    """Whether a target in `state` may be left out; `silent`: it has no agent, or nobody hears of it."""
    return state in SKIPPABLE or (silent and state in SKIPPABLE_SILENT)
