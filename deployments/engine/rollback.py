"""The way back within a rollout: every touched target returns to its last stable release. Pure."""

from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.engine.draft import Draft, DraftTarget
from deployments.engine.explain import say_retrying, say_working
from deployments.engine.settle import settle_targets

T = TargetState


def roll_back(draft: Draft) -> None:
    """Put every touched target back; the ones that are out of service anyway first and at once."""
    settle_targets(draft)
    close_all(draft, "The rollout is rolled back", keep=T.REVERTING)
    for batch in draft.batches.values():
        if batch.state in (BatchState.RUNNING, BatchState.BAKING):
            draft.move_batch(batch.position, BatchState.FAILED)
    todo = [target for target in draft.targets if _must_revert(target)]
    due = [target for target in todo if target.retry_at is None or target.retry_at <= draft.now]
    # Only what is on its way back counts: a target that cannot be put back must not hold up the others.
    room = draft.unavailability_limit(default=_largest_batch(draft)) - len(draft.in_state(T.REVERTING))
    out_first = sorted(due, key=lambda target: not target.out_of_service)
    for target in [one for turn, one in enumerate(out_first) if one.out_of_service or turn < room]:
        draft.move_target(target, T.REVERTING, attempts=_revert_attempts(target) + 1)
        draft.dispatch(target, "revert", draft.params.activate_timeout_seconds)
    busy = draft.in_state(T.REVERTING)
    if busy:
        draft.waiting = say_working(draft, busy, "reverting")
    elif len(due) < len(todo):
        when = min(target.retry_at for target in todo if target.retry_at is not None)
        draft.check_at(when)
        draft.waiting = say_retrying(draft, 0, when)
    else:
        _end(draft)


def close_all(draft: Draft, reason: str, keep: TargetState | None = None) -> None:
    for target in draft.targets:
        if target.task is not None and target.state is not keep:
            draft.close_task(target, TaskState.CANCELLED, reason)
            if target.state is T.STAGING:
                draft.move_target(target, T.PENDING)


def _end(draft: Draft) -> None:
    stuck = [target for target in draft.targets if _revert_failed(target)]
    why = draft.outcome
    if stuck:
        names = ", ".join(target.name for target in stuck[:5])
        sentence = f"{why} {len(stuck)} could not be put back and need a person: {names}."
        draft.move_rollout(RolloutState.FAILED, sentence)
    else:
        empty = sum(target.state is T.REVERTED and not target.facts.has_previous for target in draft.targets)
        note = f" {empty} had no stable release before, and run nothing now." if empty else ""
        draft.move_rollout(RolloutState.ROLLED_BACK, f"{why}{note}")


def _largest_batch(draft: Draft) -> int:
    return max(len(draft.of_batch(position)) for position in draft.batches)


def _must_revert(target: DraftTarget) -> bool:
    return (
        target.touched
        and target.state in (T.STAGED, T.ACTIVATING, T.HEALTHY, T.FAILED, T.SKIPPED)
        and not _revert_failed(target)
    )


def _revert_attempts(target: DraftTarget) -> int:
    task = target.facts.task
    return target.attempts if task is not None and task.kind == "revert" else 0


def _revert_failed(target: DraftTarget) -> bool:
    """Whether it failed on the way back for the last time."""
    return target.state is T.FAILED and target.retry_at is None and _revert_attempts(target) > 0
