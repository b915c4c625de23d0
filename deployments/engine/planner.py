"""plan(snapshot, now) -> actions: what to do next with one rollout. Pure: no I/O, time is an argument.

The same snapshot and time give the same actions, and a plan that is carried out and made again gives
nothing new. The strategy says which batch may go; everything else is here and in `settle`, `failures`
and `rollback`: staging everywhere first, tasks and their outcomes, retries, failures, silence,
deadlines, capacity, the way back.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from deployments.domain.actions import Action
from deployments.domain.snapshot import Snapshot
from deployments.domain.states import BatchState, RolloutState, TargetState
from deployments.engine.draft import Draft, DraftTarget
from deployments.engine.explain import (
    say_baking,
    say_blocked_by_capacity,
    say_paused,
    say_queued,
    say_retrying,
    say_silent,
    say_working,
    share,
)
from deployments.engine.failures import give_up_on
from deployments.engine.rollback import roll_back
from deployments.engine.settle import SILENT_CHECK_SECONDS, settle_batches, settle_targets
from deployments.strategies import registry
from deployments.strategies.base import Bake, Busy, Done, Settle, Start, Strategy

T = TargetState

QUEUE_CHECK_SECONDS = 5
LONGEST_QUEUE_CHECK_SECONDS = 120
DONE = (T.HEALTHY, T.FAILED, T.SKIPPED)


def plan(snapshot: Snapshot, now: datetime) -> list[Action]:
    """Decide. Raises Invalid only when the plan names a strategy that is not installed."""
    strategy = registry.get(snapshot.strategy)
    draft = Draft(snapshot, registry.read_planned(strategy, snapshot.params), now)
    phase = PHASES.get(snapshot.state)
    if phase is None:
        return []
    phase(draft, strategy)
    return draft.finish()


def _begin(draft: Draft, strategy: Strategy) -> None:
    snapshot = draft.snapshot
    if draft.state is RolloutState.PENDING:
        draft.move_rollout(RolloutState.QUEUED)
    if snapshot.hold is not None:
        reason = f"The release went on hold while the rollout waited: {snapshot.hold.rstrip('.')}."
        draft.move_rollout(RolloutState.FAILED, f"{reason} Nothing was changed.")
    elif snapshot.slot is not None and not snapshot.slot.free:
        # So a thousand that wait look ten times a second, and not two hundred times.
        seconds = min(LONGEST_QUEUE_CHECK_SECONDS, QUEUE_CHECK_SECONDS * (1 + snapshot.slot.before))
        draft.check_at(draft.now + timedelta(seconds=seconds))
        draft.waiting = say_queued(draft, snapshot.slot)
    else:
        draft.move_rollout(
            RolloutState.RUNNING,
            deadline=draft.now + timedelta(seconds=draft.params.rollout_timeout_seconds),
        )
        _run(draft, strategy)


def _run(draft: Draft, strategy: Strategy) -> None:
    settle_targets(draft)
    if give_up_on(draft):
        if draft.state is RolloutState.ROLLING_BACK:
            roll_back(draft)
        return
    settle_batches(draft, *DONE)
    _stage(draft)
    staging = draft.in_state(T.PENDING, T.STAGING)
    if staging:
        if all(target.facts.agent_silent for target in staging):
            _wait_for_silent(draft, staging)
        else:
            draft.waiting = say_working(draft, staging, "staging")
        return
    _advance(draft, strategy)


def _pause(draft: Draft, strategy: Strategy) -> None:
    settle_targets(draft)
    settle_batches(draft, T.HEALTHY, T.SKIPPED)
    reason = draft.outcome
    if draft.is_held and "on hold" not in reason:
        reason = f"{reason.rstrip('.')}. Its release is on hold: {draft.snapshot.hold}"
    draft.waiting = say_paused(reason, draft.down(), draft.ways_on())


def _roll_back(draft: Draft, strategy: Strategy) -> None:
    roll_back(draft)


def _advance(draft: Draft, strategy: Strategy) -> None:
    """Follow the strategy until it has to wait for something."""
    for _ in range(4 * len(draft.batches) + 4):
        step = strategy.next(list(draft.batches.values()), draft.params, draft.now)
        match step:
            case Start(position):
                draft.move_batch(position, BatchState.RUNNING)
                settle_batches(draft, *DONE)
            case Settle(position):
                members = draft.of_batch(position)
                silent = [one for one in members if one.state is T.HEALTHY and one.facts.agent_silent]
                if silent:
                    _wait_for_silent(draft, silent)
                    return
                draft.move_batch(position, BatchState.SUCCEEDED)
            case Bake(position, until):
                draft.check_at(until)
                draft.waiting = say_baking(draft, position, until)
                return
            case Busy(position):
                _activate(draft, position)
                settle_batches(draft, *DONE)
                if draft.batches[position].state is not BatchState.BAKING:
                    return
            case Done():
                _succeed(draft)
                return
    raise AssertionError(f"strategy {strategy.name} does not come to an end: {step}")


def _succeed(draft: Draft) -> None:
    """Every batch is done. A target that is not is a fault of the strategy, and for a person to judge."""
    undone = [target for target in draft.targets if target.state not in DONE]
    if undone:
        reason = (
            f"the strategy ended, but {len(undone)} targets do not run the release: {undone[0].name}, ..."
        )
        draft.move_rollout(RolloutState.PAUSED, reason)
        draft.waiting = say_paused(draft.outcome, draft.down(), draft.ways_on())
        return
    total = len(draft.targets)
    notes = []
    if failed := len(draft.in_state(T.FAILED)):
        notes.append(f"{failed} of {total} targets failed, which the policy tolerates.")
    if skipped := len(draft.in_state(T.SKIPPED)):
        notes.append(f"{share(skipped, total, 'skipped')}.")
    draft.move_rollout(RolloutState.SUCCEEDED, " ".join(notes))


def _stage(draft: Draft) -> None:
    for target in draft.in_state(T.PENDING):
        if target.retry_at is not None and target.retry_at > draft.now:
            draft.check_at(target.retry_at)
            continue
        draft.move_target(target, T.STAGING, attempts=target.attempts + 1)
        draft.dispatch(target, "stage", draft.params.stage_timeout_seconds)


def _activate(draft: Draft, position: int) -> None:
    """Activate what is staged in the batch, as far as the unavailability limit lets it.

    Nothing is begun on a target whose agent is silent: it might happen at any time, or never.
    """
    members = draft.of_batch(position)
    ready = [target for target in members if target.state is T.STAGED]
    heard = [target for target in ready if not target.facts.agent_silent]
    due = [target for target in heard if target.retry_at is None or target.retry_at <= draft.now]
    limit = draft.unavailability_limit(default=len(draft.targets))
    used = sum(target.out_of_service for target in draft.targets)
    for target in _within(due, used, limit):
        draft.move_target(target, T.ACTIVATING, attempts=target.attempts + 1)
        draft.dispatch(target, "activate", draft.params.activate_timeout_seconds)
    busy = [target for target in members if target.state is T.ACTIVATING]
    silent = [target for target in members if target.state not in DONE and target.facts.agent_silent]
    if any(not target.facts.agent_silent for target in busy):
        draft.waiting = say_working(draft, busy, "activating")
    elif len(due) < len(heard):
        when = min(one.retry_at for one in heard if one.retry_at is not None and one not in due)
        draft.check_at(when)
        draft.waiting = say_retrying(draft, position, when)
    elif due:
        if any(target.facts.agent_silent for target in draft.targets):
            # What is silent counts as out of service, and that an agent is heard of again wakes nobody.
            draft.check_at(draft.now + timedelta(seconds=SILENT_CHECK_SECONDS))
        draft.waiting = say_blocked_by_capacity(draft, limit)
    elif silent:
        _wait_for_silent(draft, silent)


def _wait_for_silent(draft: Draft, targets: list[DraftTarget]) -> None:
    draft.check_at(draft.now + timedelta(seconds=SILENT_CHECK_SECONDS))
    draft.waiting = say_silent(draft, targets)


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


PHASES: dict[RolloutState, Callable[[Draft, Strategy], None]] = {
    RolloutState.PENDING: _begin,
    RolloutState.QUEUED: _begin,
    RolloutState.RUNNING: _run,
    RolloutState.PAUSED: _pause,
    RolloutState.ROLLING_BACK: _roll_back,
}
