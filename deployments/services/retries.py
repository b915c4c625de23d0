"""Retry what failed and skip what cannot be waited for; nothing that succeeded is done again."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction

from deployments.domain.actor import Actor
from deployments.domain.choices import may_skip
from deployments.domain.states import ACTIVE, RolloutState, TargetState
from deployments.errors import Invalid, MoveNotAllowed
from deployments.models import Rollout, RolloutTarget, Task
from deployments.services import policies
from deployments.services.planning import plan_rollout
from deployments.services.rollouts import go_on, params_of
from deployments.services.steering import close_tasks, commit, locked, move_all, said, words
from deployments.strategies.base import tolerated

T = TargetState


@transaction.atomic
def retry_targets(
    *,
    actor: Actor,
    rollout_id: UUID,
    reason: str,
    targets: Collection[UUID] = (),
    if_version: int | None = None,
) -> Rollout:
    """Try failed targets again, all or those named (by target id).

    A rollout under way is returned itself, and runs on where it was paused. One that has ended gets a
    rollout of the same release to the targets that do not run it, which is returned. Raises Invalid or
    MoveNotAllowed saying what to do instead.
    """
    rollout, moves = locked(actor, "rollout.retry", rollout_id, if_version)
    rows = list(rollout.targets.select_related("target", "batch").order_by("position"))
    if rollout.state not in ACTIVE:
        return _anew(rollout, rows, targets, actor, reason)
    if rollout.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise MoveNotAllowed(f"The rollout is {words(rollout)}: none of its targets can be tried again now.")
    chosen = _chosen(rows, targets) if targets else [one for one in rows if one.state == T.FAILED]
    if not chosen:
        raise MoveNotAllowed("No target of this rollout has failed; there is nothing to try again.")
    for one in chosen:
        if one.state != T.FAILED:
            raise MoveNotAllowed(
                f"{one.target.name} is {one.state}; only a failed target can be tried again."
            )
    rest = [one for one in rows if one.state == T.FAILED and one not in chosen]
    if rollout.state == RolloutState.PAUSED and len(rest) > tolerated(
        params_of(rollout).max_failures, len(rows), "max_failures"
    ):
        names = ", ".join(one.target.name for one in rest[:5])
        raise MoveNotAllowed(
            f"{names} failed too, and the policy does not tolerate it. Retry them as well, or skip them."
        )
    go_on(rollout, moves, chosen, said(actor, reason), "rollout.retry")
    return commit(rollout, moves)


@transaction.atomic
def skip_targets(
    *,
    actor: Actor,
    rollout_id: UUID,
    targets: Collection[UUID],
    reason: str,
    if_version: int | None = None,
) -> Rollout:
    """Leave targets (by target id) out of the rollout: what was changed on them stays as it is.

    One that is being changed, or is done, can be left out only while nobody hears of its agent.

    Raises Invalid or MoveNotAllowed saying what to do instead.
    """
    rollout, moves = locked(actor, "rollout.skip", rollout_id, if_version)
    if rollout.state not in ACTIVE or rollout.state == RolloutState.ROLLING_BACK:
        raise MoveNotAllowed(f"The rollout is {words(rollout)}: none of its targets can be skipped any more.")
    if not reason.strip():
        raise Invalid(
            reason="say why the target is skipped: the rollout's outcome and the audit trail keep it"
        )
    rows = list(rollout.targets.select_related("target__agent", "batch").order_by("position"))
    chosen = _chosen(rows, targets)
    if not chosen:
        raise Invalid(targets="name at least one target of this rollout")
    for one in chosen:
        _check_skippable(one, moves.now)
    if all(one in chosen or one.state == T.SKIPPED for one in rows):
        raise MoveNotAllowed("No target would be left in this rollout. Cancel it instead.")
    close_tasks(rollout, moves, "The target was skipped", chosen)
    move_all(moves, chosen, T.SKIPPED, code="skipped", error=said(actor, reason))
    return commit(rollout, moves)


def _check_skippable(one: RolloutTarget, now: datetime) -> None:
    name, state, agent = one.target.name, T(one.state), one.target.agent
    if may_skip(state, silent=agent is None or agent.is_silent(now, settings.SLIPWAY.heartbeat_seconds)):
        return
    if state is T.SKIPPED:
        raise MoveNotAllowed(f"{name} is skipped already.")
    if state is T.ACTIVATING:
        raise MoveNotAllowed(f"{name} is being changed right now. Wait until that has ended.")
    raise MoveNotAllowed(f"{name} is {state}: it is done already.")


def _chosen(rows: list[RolloutTarget], targets: Collection[UUID]) -> list[RolloutTarget]:
    wanted = set(targets)
    if unknown := wanted - {one.target_id for one in rows}:
        raise Invalid(targets=f"{len(unknown)} of them are no targets of this rollout: {min(unknown)}, ...")
    return [one for one in rows if one.target_id in wanted]


def _anew(
    rollout: Rollout, rows: list[RolloutTarget], targets: Collection[UUID], actor: Actor, reason: str
) -> Rollout:
    """A rollout of the same release to what the ended one did not bring it to."""
    if rollout.state in (RolloutState.ROLLED_BACK, RolloutState.SUPERSEDED):
        raise MoveNotAllowed(
            f"The rollout is {words(rollout)}; nothing of it can be retried. Start a new one."
        )
    if any(one.state == T.REVERTED for one in rows) or rollout.tasks.filter(kind=Task.Kind.REVERT).exists():
        raise MoveNotAllowed("The rollout ended on its way back. Roll it back again.")
    undone = [one for one in rows if one.state not in (T.HEALTHY, T.SKIPPED)]
    if not undone:
        raise MoveNotAllowed("Every target of this rollout runs the release; there is nothing to try again.")
    if (latest := Rollout.objects.after(rollout).newest_first().first()) is not None:
        raise MoveNotAllowed(f"A newer rollout, {latest}, was here since. Start a new one instead.")
    chosen = _chosen(rows, targets) if targets else undone
    if done := [one.target.name for one in chosen if one not in undone]:
        raise MoveNotAllowed(f"{', '.join(done[:5])} did not fail; only what failed can be tried again.")
    body = rollout.plan.body
    return plan_rollout(
        actor=actor,
        service=rollout.service,
        environment=rollout.environment,
        release=rollout.release,
        strategy=policies.fitting(body["params"], len(chosen)) | {"name": body["strategy"]},
        reason=reason,
        kind=Rollout.Kind(rollout.kind),
        rolls_back=rollout.rolls_back,
        retries=rollout,
        only=frozenset(one.target_id for one in chosen),
        priority=Rollout.Priority(rollout.priority),
    )
