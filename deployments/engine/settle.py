"""What tasks came to, and what serves no longer: the first thing that the planner looks at. Pure."""

from datetime import timedelta

from deployments.domain.snapshot import TaskFacts
from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.engine.draft import Draft, DraftTarget

T = TargetState

FINAL_CODES = frozenset(
    {
        "archive_too_large",
        "bad_archive",
        "digest_mismatch",
        "invalid_config",
        "size_mismatch",
        "unsafe_archive",
        "unsupported_runtime",
    }
)
"""Failures that a second try cannot mend."""

REVERT_ATTEMPTS = 3
RETURN_SECONDS = 10
"""How long an agent that came back has for the results in its journal, before its tasks expire."""
SILENT_CHECK_SECONDS = 2


def settle_targets(draft: Draft) -> None:
    for target in draft.targets:
        if target.state in (T.STAGING, T.ACTIVATING, T.REVERTING):
            _settle_task(draft, target)
        elif target.state is T.HEALTHY and _fell_ill(target):
            error = "It was healthy after its activation and is no longer"
            draft.move_target(target, T.FAILED, attempts=target.attempts, error_code="unhealthy", error=error)
            if target.attempts < draft.params.activate_attempts and draft.state is RolloutState.RUNNING:
                _again(draft, target, T.STAGED, "unhealthy", error, ())


def settle_batches(draft: Draft, *ends: TargetState) -> None:
    """A batch whose targets all stand in `ends` goes on to its bake; one with a target to do is reopened."""
    for batch in list(draft.batches.values()):
        members = draft.of_batch(batch.position)
        if batch.state is BatchState.RUNNING and all(target.state in ends for target in members):
            draft.move_batch(batch.position, BatchState.BAKING)
        elif batch.state in (BatchState.BAKING, BatchState.SUCCEEDED) and any(
            target.state is T.STAGED for target in members
        ):
            draft.move_batch(batch.position, BatchState.FAILED)
            draft.move_batch(batch.position, BatchState.RUNNING)


def end_what_moves(draft: Draft, when: str) -> None:
    """At an end nothing is left as if it still moved: what its agent reports from now on is what is."""
    for target in draft.in_state(T.ACTIVATING):
        error = f"It was being activated {when}; what it runs is what its agent reports"
        draft.move_target(target, T.FAILED, attempts=target.attempts, error_code="cancelled", error=error)


def _settle_task(draft: Draft, target: DraftTarget) -> None:
    task = target.facts.task
    if task is None or target.state is not target.facts.state:
        return
    if target.task is not None:
        _settle_open(draft, target, target.task)
    elif task.state is TaskState.SUCCEEDED:
        after = {T.STAGING: T.STAGED, T.ACTIVATING: T.HEALTHY, T.REVERTING: T.REVERTED}[target.state]
        kept = target.attempts if after is T.HEALTHY else 0
        draft.move_target(target, after, attempts=kept)
    else:
        _task_failed(draft, target, task.error_code, task.error, task.log_tail)


def _settle_open(draft: Draft, target: DraftTarget, task: TaskFacts) -> None:
    """A task without a result: time may have run out, unless nobody can tell what its agent did."""
    if task.expires_at > draft.now:
        draft.check_at(task.expires_at)
        return
    facts = target.facts
    if target.state is not T.REVERTING:
        if facts.agent_silent:
            draft.check_at(draft.now + timedelta(seconds=SILENT_CHECK_SECONDS))
            return
        came_back = facts.agent_connected_at
        if came_back is not None and came_back > task.expires_at - timedelta(seconds=RETURN_SECONDS):
            until = came_back + timedelta(seconds=RETURN_SECONDS)
            if until > draft.now:
                draft.check_at(until)
                return
    error = f"Agent {facts.agent} did not answer in time; look whether it runs and reaches the portal"
    draft.close_task(target, TaskState.EXPIRED, error)
    if target.state is not T.REVERTING and _never_begun(target, task):
        back = T.PENDING if target.state is T.STAGING else T.STAGED
        draft.move_target(target, back, attempts=max(0, target.attempts - 1))
        return
    _task_failed(draft, target, "timeout", error, ())


def _never_begun(target: DraftTarget, task: TaskFacts) -> bool:
    """Whether the agent was away when it got the task, and never took it up: no attempt of its own."""
    came_back, given = target.facts.agent_connected_at, task.given_at
    return (
        task.state is TaskState.DISPATCHED
        and came_back is not None
        and given is not None
        and came_back > given
    )


def _task_failed(draft: Draft, target: DraftTarget, code: str, error: str, log_tail: tuple[str, ...]) -> None:
    """Try again where that may help, with growing pauses; else the target has failed."""
    back, attempts = {
        T.STAGING: (T.PENDING, draft.params.stage_attempts),
        T.ACTIVATING: (T.STAGED, draft.params.activate_attempts),
        T.REVERTING: (T.FAILED, REVERT_ATTEMPTS),
    }[target.state]
    if target.attempts < attempts and code not in FINAL_CODES:
        _again(draft, target, back, code, error, log_tail)
        return
    draft.move_target(
        target, T.FAILED, attempts=target.attempts, error_code=code, error=error, log_tail=log_tail
    )


def _again(
    draft: Draft,
    target: DraftTarget,
    back: TargetState,
    code: str,
    error: str,
    log_tail: tuple[str, ...],
) -> None:
    draft.move_target(
        target,
        back,
        attempts=target.attempts,
        retry_at=draft.retry_time(target, target.attempts),
        error_code=code,
        error=error,
        log_tail=log_tail,
    )


def _fell_ill(target: DraftTarget) -> bool:
    facts = target.facts
    reported = facts.reported_at
    if facts.health != "unhealthy" or reported is None or reported <= facts.state_since:
        return False
    # A heartbeat that was on its way may still speak of the release before.
    return facts.reports_release
