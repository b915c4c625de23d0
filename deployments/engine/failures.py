"""Whether a running rollout has to stop, and how: tolerated failures, silence, deadlines. Pure."""

from deployments.domain.states import BatchState, RolloutState, TargetState
from deployments.engine.draft import Draft, DraftTarget
from deployments.engine.explain import names_of, say_paused, share, silent_deadline
from deployments.engine.rollback import close_all
from deployments.engine.settle import end_what_moves
from deployments.strategies.base import Reaction, tolerated

T = TargetState

STRICTEST_FIRST: tuple[Reaction, ...] = ("rollback", "abort", "pause")


def give_up_on(draft: Draft) -> bool:
    """React to what the policy does not tolerate; False when the rollout may go on."""
    found = _failures(draft) or _hold(draft) or _deadline(draft) or _silence(draft)
    if found is None:
        return False
    reaction, sentence = found
    for target in draft.in_state(T.FAILED):
        position = target.facts.batch
        if draft.batches[position].state not in (BatchState.PENDING, BatchState.FAILED):
            draft.move_batch(position, BatchState.FAILED)
    _react(draft, reaction, sentence)
    return True


def _failures(draft: Draft) -> tuple[Reaction, str] | None:
    failed = draft.in_state(T.FAILED)
    if not failed:
        return None
    too_many = len(failed) > tolerated(draft.params.max_failures, len(draft.targets), "max_failures")
    per_batch = draft.params.max_failures_per_batch
    if not too_many and per_batch is not None:
        for position in {target.facts.batch for target in failed}:
            members = draft.of_batch(position)
            of_batch = sum(target.state is T.FAILED for target in members)
            if of_batch > tolerated(per_batch, len(members), "max_failures_per_batch"):
                too_many = True
    if not too_many:
        return None
    reactions = {_reaction(draft, target.error_code) for target in failed}
    strictest = next(one for one in STRICTEST_FIRST if one in reactions)
    first = failed[0]
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return strictest, f"{first.name}{others} failed: {first.error.rstrip('.')}."


def _hold(draft: Draft) -> tuple[Reaction, str] | None:
    if not draft.is_held:
        return None
    return "pause", f"Its release went on hold: {str(draft.snapshot.hold).rstrip('.')}."


def _reaction(draft: Draft, code: str) -> Reaction:
    params = draft.params
    match code:
        case "timeout":
            chosen = params.on_timeout
        case "unhealthy":
            chosen = params.on_unhealthy
        case _:
            chosen = params.on_task_failure
    return chosen or params.on_failure


def _deadline(draft: Draft) -> tuple[Reaction, str] | None:
    reaction = draft.params.on_timeout or draft.params.on_failure
    if draft.deadline_at is not None and draft.deadline_at <= draft.now:
        return reaction, f"It did not end within {_span(draft.params.rollout_timeout_seconds)}."
    for batch in draft.batches.values():
        deadline = draft.batch_deadlines.get(batch.position)
        if batch.state is BatchState.RUNNING and deadline is not None and deadline <= draft.now:
            late = [one for one in draft.of_batch(batch.position) if one.state not in (T.HEALTHY, T.SKIPPED)]
            return reaction, (
                f"Batch {batch.position + 1} was not done within "
                f"{_span(draft.params.batch_timeout_seconds)}: {names_of(late)} did not get there."
            )
    return None


def _silence(draft: Draft) -> tuple[Reaction, str] | None:
    reaction = draft.params.on_silent
    if reaction == "wait":
        return None
    needed = [target for target in draft.targets if target.facts.agent_silent and _is_needed(draft, target)]
    over = [target for target in needed if (silent_deadline(draft, target) or draft.now) <= draft.now]
    for target in needed:
        draft.check_at(max(silent_deadline(draft, target) or draft.now, draft.now))
    if not over:
        return None
    agents = ", ".join(sorted({target.facts.agent for target in over})[:4])
    return reaction, (
        f"Agent {agents} has been silent for {_span(draft.params.silent_seconds)}; "
        f"what {names_of(over)} run is not known."
    )


def _is_needed(draft: Draft, target: DraftTarget) -> bool:
    """Whether the rollout waits, or is about to wait, for this target."""
    if target.state in (T.PENDING, T.STAGING, T.ACTIVATING):
        return True
    batch = draft.batches[target.facts.batch]
    return batch.state in (BatchState.RUNNING, BatchState.BAKING) and target.state in (T.STAGED, T.HEALTHY)


def _react(draft: Draft, reaction: Reaction, sentence: str) -> None:
    touched = [target for target in draft.targets if target.touched]
    total = len(draft.targets)
    if not touched and reaction != "pause":
        close_all(draft, "The rollout failed before anything was changed")
        draft.move_rollout(RolloutState.FAILED, f"{sentence} Nothing was changed.")
        return
    rest = f"{share(total - len(touched), total, 'not touched')}."
    held = [target for target in touched if target.facts.previous_held]
    if reaction == "rollback" and held:
        reaction = "pause"
        rest += (
            f" It cannot go back by itself: the stable release of {names_of(held)} is on hold."
            " Lift that hold and roll back, or cancel."
        )
    if reaction == "rollback":
        if draft.snapshot.kind == "deploy" and not draft.snapshot.is_stable_here:
            draft.place_hold(sentence)
        draft.move_rollout(RolloutState.ROLLING_BACK, f"{sentence} {rest}")
    elif reaction == "pause":
        draft.move_rollout(RolloutState.PAUSED, f"{sentence} {rest}")
        draft.waiting = say_paused(draft.outcome, draft.down(), draft.ways_on())
    else:
        close_all(draft, "The rollout was aborted")
        end_what_moves(draft, "when the rollout was aborted")
        draft.move_rollout(
            RolloutState.FAILED,
            f"{sentence} {share(len(touched), total, 'changed')} and not put back; "
            "the others were not touched.",
        )


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
