"""plan(snapshot, now) -> actions: what to do next with one rollout. Pure: no I/O, time is an argument.

The same snapshot and time give the same actions, and a plan that is carried out and made again gives
nothing new. The strategy says which batch may go; everything else is here: staging everywhere first,
tasks and their outcomes, retries, failures, capacity, the way back.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from deployments.domain.actions import Action
from deployments.domain.snapshot import Snapshot
from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from deployments.engine.draft import Draft, DraftTarget
from deployments.engine.explain import (
    SILENT_CHECK_SECONDS,
    say_baking,
    say_blocked_by_capacity,
    say_paused,
    say_retrying,
    say_silent,
    say_working,
)
from deployments.strategies import registry
from deployments.strategies.base import Bake, Busy, Done, Settle, Start, Strategy, size

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


def plan(snapshot: Snapshot, now: datetime) -> list[Action]:
    """Decide. Raises Invalid only when the plan names a strategy that is not installed."""
    strategy = registry.get(snapshot.strategy)
    draft = Draft(snapshot, registry.read_params(strategy, dict(snapshot.params)), now)
    phase = PHASES.get(snapshot.state)
    if phase is None:
        return []
    phase(draft, strategy)
    return draft.finish()


def _begin(draft: Draft, strategy: Strategy) -> None:
    if draft.state is RolloutState.PENDING:
        draft.move_rollout(RolloutState.QUEUED)
    draft.move_rollout(RolloutState.RUNNING)
    _run(draft, strategy)


def _run(draft: Draft, strategy: Strategy) -> None:
    _settle_targets(draft)
    if len(draft.in_state(T.FAILED)) > draft.params.max_failures:
        _fail(draft, strategy)
        return
    _settle_batches(draft, T.HEALTHY, T.FAILED)
    _stage(draft)
    if draft.in_state(T.PENDING, T.STAGING):
        draft.waiting = say_working(draft, draft.in_state(T.PENDING, T.STAGING), "staging")
        return
    _advance(draft, strategy)


def _pause(draft: Draft, strategy: Strategy) -> None:
    _settle_targets(draft)
    _settle_batches(draft, T.HEALTHY)
    draft.waiting = say_paused(draft.snapshot.outcome)


def _advance(draft: Draft, strategy: Strategy) -> None:
    """Follow the strategy until it has to wait for something."""
    for _ in range(4 * len(draft.batches) + 4):
        step = strategy.next(list(draft.batches.values()), draft.params, draft.now)
        match step:
            case Start(position):
                draft.move_batch(position, BatchState.RUNNING)
            case Settle(position):
                if silent := _silent(draft, position):
                    draft.check_at(draft.now + timedelta(seconds=SILENT_CHECK_SECONDS))
                    draft.waiting = say_silent(draft, silent)
                    return
                draft.move_batch(position, BatchState.SUCCEEDED)
            case Bake(position, until):
                draft.check_at(until)
                draft.waiting = say_baking(draft, position, until)
                return
            case Busy(position):
                _activate(draft, position)
                _settle_batches(draft, T.HEALTHY, T.FAILED)
                if draft.batches[position].state is not BatchState.BAKING:
                    return
            case Done():
                _succeed(draft)
                return
    raise AssertionError(f"strategy {strategy.name} does not come to an end: {step}")


def _succeed(draft: Draft) -> None:
    """Every batch is done. A target that is not is a fault of the strategy, and for a person to judge."""
    undone = [target for target in draft.targets if target.state not in (T.HEALTHY, T.FAILED)]
    if undone:
        reason = (
            f"the strategy ended, but {len(undone)} targets do not run the release: {undone[0].name}, ..."
        )
        draft.move_rollout(RolloutState.PAUSED, reason)
        draft.waiting = say_paused(reason)
        return
    failed = len(draft.in_state(T.FAILED))
    tolerated = f"{failed} of {len(draft.targets)} targets failed, which the policy tolerates."
    draft.move_rollout(RolloutState.SUCCEEDED, tolerated if failed else "")


def _silent(draft: Draft, position: int) -> list[DraftTarget]:
    members = draft.of_batch(position)
    return [target for target in members if target.state is T.HEALTHY and target.facts.agent_silent]


def _stage(draft: Draft) -> None:
    for target in draft.in_state(T.PENDING):
        if target.retry_at is not None and target.retry_at > draft.now:
            draft.check_at(target.retry_at)
            continue
        draft.move_target(target, T.STAGING, attempts=target.attempts + 1)
        draft.dispatch(target, "stage", draft.params.stage_timeout_seconds)


def _activate(draft: Draft, position: int) -> None:
    """Activate what is staged in the batch, as far as the unavailability limit lets it."""
    ready = [target for target in draft.of_batch(position) if target.state is T.STAGED]
    due = [target for target in ready if target.retry_at is None or target.retry_at <= draft.now]
    limit = _limit(draft, default=len(draft.targets))
    used = sum(target.out_of_service for target in draft.targets)
    for target in _within(due, used, limit):
        draft.move_target(target, T.ACTIVATING, attempts=target.attempts + 1)
        draft.dispatch(target, "activate", draft.params.activate_timeout_seconds)
    busy = [target for target in draft.of_batch(position) if target.state is T.ACTIVATING]
    if busy:
        draft.waiting = say_working(draft, busy, "activating")
    elif len(due) < len(ready):
        when = min(target.retry_at for target in ready if target.retry_at is not None)
        draft.check_at(when)
        draft.waiting = say_retrying(draft, position, when)
    elif ready:
        draft.waiting = say_blocked_by_capacity(draft, limit)


def _roll_back(draft: Draft, strategy: Strategy) -> None:
    """Put every touched target back; the ones that are out of service anyway first and at once."""
    _settle_targets(draft)
    _close_all(draft, "The rollout is rolled back", keep=T.REVERTING)
    for batch in draft.batches.values():
        if batch.state in (BatchState.RUNNING, BatchState.BAKING):
            draft.move_batch(batch.position, BatchState.FAILED)
    todo = [target for target in draft.targets if _must_revert(target)]
    due = [target for target in todo if target.retry_at is None or target.retry_at <= draft.now]
    # Only what is on its way back counts: a target that cannot be put back must not hold up the others.
    limit = _limit(draft, default=_largest_batch(draft))
    room = limit - len(draft.in_state(T.REVERTING))
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
        _end_rollback(draft)


def _end_rollback(draft: Draft) -> None:
    stuck = [target for target in draft.targets if _revert_failed(target)]
    why = draft.snapshot.outcome
    if stuck:
        names = ", ".join(target.name for target in stuck[:5])
        sentence = f"{why} {len(stuck)} could not be put back and need a person: {names}."
        draft.move_rollout(RolloutState.FAILED, sentence)
    else:
        draft.move_rollout(RolloutState.ROLLED_BACK, why)


def _settle_targets(draft: Draft) -> None:
    """Take up what the tasks came to, and what serves no longer."""
    for target in draft.targets:
        if target.state in (T.STAGING, T.ACTIVATING, T.REVERTING):
            _settle_task(draft, target)
        elif target.state is T.HEALTHY and _fell_ill(target):
            draft.move_target(
                target,
                T.FAILED,
                error_code="unhealthy",
                error="It was healthy after its activation and is no longer",
            )


def _settle_task(draft: Draft, target: DraftTarget) -> None:
    task = target.facts.task
    if task is None or target.state is not target.facts.state:
        return
    if target.task is not None:
        if target.task.expires_at > draft.now:
            return
        agent = target.facts.agent
        error = f"Agent {agent} did not answer in time; look whether it runs and reaches the portal"
        draft.close_task(target, TaskState.EXPIRED, error)
        _task_failed(draft, target, "timeout", error, ())
    elif task.state is TaskState.SUCCEEDED:
        after = {T.STAGING: T.STAGED, T.ACTIVATING: T.HEALTHY, T.REVERTING: T.REVERTED}[target.state]
        draft.move_target(target, after)
    else:
        _task_failed(draft, target, task.error_code, task.error, task.log_tail)


def _task_failed(draft: Draft, target: DraftTarget, code: str, error: str, log_tail: tuple[str, ...]) -> None:
    """Try again where that may help, with growing pauses; else the target has failed."""
    back, attempts = {
        T.STAGING: (T.PENDING, draft.params.stage_attempts),
        T.ACTIVATING: (T.STAGED, draft.params.activate_attempts),
        T.REVERTING: (T.FAILED, REVERT_ATTEMPTS),
    }[target.state]
    again = target.attempts < attempts and code not in FINAL_CODES
    draft.move_target(
        target,
        back if again else T.FAILED,
        attempts=target.attempts,
        retry_at=draft.retry_time(target, target.attempts) if again else None,
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


def _settle_batches(draft: Draft, *ends: TargetState) -> None:
    """A batch whose targets all stand in `ends` goes on to its bake."""
    for batch in list(draft.batches.values()):
        if batch.state is not BatchState.RUNNING:
            continue
        if all(target.state in ends for target in draft.of_batch(batch.position)):
            draft.move_batch(batch.position, BatchState.BAKING)


def _fail(draft: Draft, strategy: Strategy) -> None:
    failed = draft.in_state(T.FAILED)
    sentence = _failure(failed)
    for position in sorted({target.facts.batch for target in failed}):
        if draft.batches[position].state not in (BatchState.PENDING, BatchState.FAILED):
            draft.move_batch(position, BatchState.FAILED)
    if not any(target.touched for target in draft.targets):
        _close_all(draft, "The rollout failed before anything was changed")
        draft.move_rollout(RolloutState.FAILED, f"{sentence} Nothing was changed.")
    elif draft.params.on_failure == "rollback":
        draft.move_rollout(RolloutState.ROLLING_BACK, sentence)
        _roll_back(draft, strategy)
    elif draft.params.on_failure == "pause":
        draft.move_rollout(RolloutState.PAUSED, sentence)
        draft.waiting = say_paused(sentence)
    else:
        _close_all(draft, "The rollout was aborted")
        touched = sum(target.touched for target in draft.targets)
        rest = f"{touched} of {len(draft.targets)} targets were changed and stay as they are."
        draft.move_rollout(RolloutState.FAILED, f"{sentence} {rest}")


def _close_all(draft: Draft, reason: str, keep: TargetState | None = None) -> None:
    for target in draft.targets:
        if target.task is not None and target.state is not keep:
            draft.close_task(target, TaskState.CANCELLED, reason)
            if target.state is T.STAGING:
                draft.move_target(target, T.PENDING)


def _failure(failed: list[DraftTarget]) -> str:
    """One sentence: who failed and why, by the word of the first."""
    first = failed[0]
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{first.name}{others} failed: {first.error.rstrip('.')}."


def _limit(draft: Draft, *, default: int) -> int:
    value = draft.params.max_unavailable
    return default if value == 0 else size(value, len(draft.targets), "max_unavailable")


def _within(candidates: list[DraftTarget], used: int, limit: int) -> list[DraftTarget]:
    """The candidates that may be taken out of service now; one that is out already costs nothing."""
    chosen = []
    for target in candidates:
        if target.out_of_service:
            chosen.append(target)
        elif used < limit:
            chosen.append(target)
            used += 1
    return chosen


def _largest_batch(draft: Draft) -> int:
    return max(len(draft.of_batch(position)) for position in draft.batches)


def _must_revert(target: DraftTarget) -> bool:
    return (
        target.touched
        and target.state in (T.STAGED, T.ACTIVATING, T.HEALTHY, T.FAILED)
        and not (_revert_failed(target))
    )


def _revert_attempts(target: DraftTarget) -> int:
    task = target.facts.task
    return target.attempts if task is not None and task.kind == "revert" else 0


def _revert_failed(target: DraftTarget) -> bool:
    """Whether it failed on the way back for the last time."""
    return target.state is T.FAILED and target.retry_at is None and _revert_attempts(target) > 0


PHASES: dict[RolloutState, Callable[[Draft, Strategy], None]] = {
    RolloutState.PENDING: _begin,
    RolloutState.QUEUED: _begin,
    RolloutState.RUNNING: _run,
    RolloutState.PAUSED: _pause,
    RolloutState.ROLLING_BACK: _roll_back,
}
