"""Commands on rollouts: each checks permission, changes rows, records and wakes the engine, as one."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from deployments import access
from deployments.domain.actions import MoveBatch
from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE, BatchState, RolloutState, TargetState
from deployments.engine.explain import share
from deployments.engine.transition import Moves
from deployments.errors import Invalid, MoveNotAllowed
from deployments.models import Batch, Environment, Release, Rollout, RolloutTarget, Service
from deployments.services import policies
from deployments.services.planning import IfBusy, check_hold, plan_rollout
from deployments.services.steering import close_tasks, commit, locked, move_all, said, words
from deployments.strategies import registry
from deployments.strategies.base import Params


@transaction.atomic
def start_rollout(
    *,
    actor: Actor,
    service_id: UUID,
    environment_id: UUID,
    release_id: UUID,
    strategy: dict[str, Any] | None = None,
    reason: str = "",
    priority: Rollout.Priority = Rollout.Priority.NORMAL,
    if_busy: IfBusy = "refuse",
) -> Rollout:
    """Plan a rollout and hand it to the engine, which starts it as soon as there is a slot.

    `if_busy` says what happens when another rollout of the service there is not at its end: refuse, queue
    up behind it, or queue up and supersede those that wait. Raises NotFound, NotAllowed, Invalid,
    NothingToDeploy, TargetWithoutAgent, ReleaseOnHold, RolloutActive or QueueFull; nothing is changed then.
    """
    service = access.get(actor, "rollout.create", Service.objects.select_related("team"), id=service_id)
    environment = Environment.objects.filter(id=environment_id).first()
    if environment is None:
        names = ", ".join(Environment.objects.values_list("name", flat=True)[:20])
        raise Invalid(environment=f"there is no such environment. There are: {names or 'none yet'}.")
    release = (
        access.visible(actor, Release.objects.filter(service=service))
        .select_related("artifact", "config", "service")
        .filter(id=release_id)
        .first()
    )
    if release is None:
        raise Invalid(release=f"{service} has no such release. Create it first.")
    return plan_rollout(
        actor=actor,
        service=service,
        environment=environment,
        release=release,
        strategy=policies.definition(service, environment, strategy or {}),
        asked_for=frozenset(strategy or {}),
        reason=reason,
        priority=priority,
        if_busy=if_busy,
    )


@transaction.atomic
def pause_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """Start nothing more; what is under way ends. Raises MoveNotAllowed, StaleVersion."""
    rollout, moves = locked(actor, "rollout.pause", rollout_id, if_version)
    if rollout.state == RolloutState.PAUSED:
        raise MoveNotAllowed("The rollout is paused already. Resume it, roll it back or cancel it.")
    if rollout.state != RolloutState.RUNNING:
        instead = " Cancel it instead." if rollout.is_active else ""
        raise MoveNotAllowed(f"Only a running rollout can be paused; this one is {words(rollout)}.{instead}")
    moves.move_rollout(RolloutState.PAUSED, reason=said(actor, reason), verb="rollout.pause")
    return commit(rollout, moves)


@transaction.atomic
def resume_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """Go on from where it stopped; targets that failed are tried again, nothing that succeeded is."""
    rollout, moves = locked(actor, "rollout.resume", rollout_id, if_version)
    if rollout.state not in ACTIVE:
        raise MoveNotAllowed(
            f"The rollout is at its end: {words(rollout)}. Retry its targets, or start a new rollout."
        )
    if rollout.state != RolloutState.PAUSED:
        raise MoveNotAllowed(f"Only a paused rollout can be resumed; this one is {words(rollout)}.")
    failed = rollout.targets.filter(state=TargetState.FAILED).select_related("target", "batch")
    go_on(rollout, moves, list(failed.order_by("position")), said(actor, reason), "rollout.resume")
    return commit(rollout, moves)


@transaction.atomic
def cancel_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """End it where it stands: targets that were changed stay changed, and the outcome says how many.

    One that is rolling back ends as failed, since it left targets where they should not be.
    """
    rollout, moves = locked(actor, "rollout.cancel", rollout_id, if_version)
    if not rollout.is_active:
        raise MoveNotAllowed(
            f"The rollout is at its end: {words(rollout)}. To undo what it changed, roll it back."
        )
    if rollout.state == RolloutState.ROLLING_BACK:
        return _stop_rolling_back(rollout, moves, said(actor, reason))
    moving = list(rollout.targets.filter(state=TargetState.ACTIVATING).select_related("target"))
    touched = rollout.targets.filter(touched=True).count()
    rest = (
        f"{share(touched, rollout.targets.count(), 'changed')} and not put back."
        if touched
        else "Nothing was changed."
    )
    if moving:
        verb = "was" if len(moving) == 1 else "were"
        rest += f" {len(moving)} of them {verb} just being changed."
    close_tasks(rollout, moves, "The rollout was cancelled")
    staging = rollout.targets.filter(state=TargetState.STAGING).select_related("target")
    move_all(moves, staging, TargetState.PENDING)
    error = "It was being activated when the rollout was cancelled; what it runs is what its agent reports"
    move_all(moves, moving, TargetState.FAILED, code="cancelled", error=error)
    outcome = f"{said(actor, reason).rstrip('.')}. {rest}"
    moves.move_rollout(RolloutState.CANCELLED, reason=outcome, verb="rollout.cancel")
    return commit(rollout, moves)


def _stop_rolling_back(rollout: Rollout, moves: Moves, why: str) -> Rollout:
    under_way = list(rollout.targets.filter(state=TargetState.REVERTING).select_related("target"))
    close_tasks(rollout, moves, "The rollback was cancelled")
    error = "It was being put back when the rollback was cancelled; what it runs is what its agent reports"
    move_all(moves, under_way, TargetState.FAILED, code="cancelled", error=error)
    touched = rollout.targets.filter(touched=True).count()
    back = rollout.targets.filter(state=TargetState.REVERTED).count()
    outcome = f"The rollback was cancelled: {why.rstrip('.')}. {share(back, touched, 'put back')}."
    moves.move_rollout(RolloutState.FAILED, reason=outcome, verb="rollout.cancel")
    return commit(rollout, moves)


def go_on(rollout: Rollout, moves: Moves, again: Sequence[RolloutTarget], why: str, verb: str) -> None:
    """Let `again` be tried once more, and the rollout run on; the time that it stood paused is given back."""
    if rollout.kind == Rollout.Kind.DEPLOY:
        check_hold(rollout.release)
    params = params_of(rollout)
    was_paused = rollout.state == RolloutState.PAUSED
    if was_paused:
        paused = moves.now - rollout.state_since
        deadline = rollout.deadline_at and rollout.deadline_at + paused
        if deadline is not None and deadline <= moves.now:
            deadline = moves.now + timedelta(seconds=params.rollout_timeout_seconds)
        moves.move_rollout(RolloutState.RUNNING, reason=why, verb=verb, deadline=deadline)
        moves.give_time(paused, at_least=timedelta(seconds=params.batch_timeout_seconds))
    fresh = [one for one in again if not one.touched]
    move_all(moves, fresh, TargetState.PENDING)
    move_all(moves, [one for one in again if one.touched], TargetState.STAGED)
    reopened = {one.batch_id: one.batch for one in again}
    if was_paused:
        reopened |= {batch.id: batch for batch in rollout.batches.filter(state=BatchState.FAILED)}
    batches = sorted(reopened.values(), key=lambda batch: batch.position)
    moves.move_batches(_reopen(batches, moves, params))


def params_of(rollout: Rollout) -> Params:
    body: dict[str, Any] = rollout.plan.body
    return registry.read_planned(registry.get(body["strategy"]), body["params"])


def _reopen(
    batches: Sequence[Batch], moves: Moves, params: Params
) -> list[tuple[MoveBatch, BatchState, str]]:
    """Moves that bring finished batches back to running, by way of failed as the table asks."""
    found: list[tuple[MoveBatch, BatchState, str]] = []
    deadline = moves.now + timedelta(seconds=params.batch_timeout_seconds)
    for batch in batches:
        state = BatchState(batch.state)
        if state in (BatchState.BAKING, BatchState.SUCCEEDED):
            found.append((MoveBatch(batch.id, BatchState.FAILED), state, str(batch)))
            state = BatchState.FAILED
        if state is BatchState.FAILED:
            found.append((MoveBatch(batch.id, BatchState.RUNNING, deadline), state, str(batch)))
    return found
