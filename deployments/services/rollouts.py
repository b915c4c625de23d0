"""Commands on rollouts: each checks permission, changes rows, records and wakes the engine, as one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from deployments import access, queueing
from deployments.domain.actions import CloseTask, MoveBatch, MoveTarget
from deployments.domain.actor import Actor
from deployments.domain.states import TASK_OPEN, BatchState, RolloutState, TargetState, TaskState
from deployments.engine.explain import say_paused
from deployments.engine.transition import Moves
from deployments.errors import (
    Invalid,
    MoveNotAllowed,
    NoStableRelease,
    StaleVersion,
)
from deployments.models import (
    Batch,
    Environment,
    Release,
    Rollout,
    RolloutTarget,
    Service,
    Target,
)
from deployments.services.planning import RELATED, UNTICKED, plan_rollout


@transaction.atomic
def start_rollout(
    *,
    actor: Actor,
    service_id: UUID,
    environment_id: UUID,
    release_id: UUID,
    strategy: dict[str, Any] | None = None,
    reason: str = "",
) -> Rollout:
    """Plan a rollout and hand it to the engine.

    Raises NotFound, NotAllowed, Invalid, NothingToDeploy, TargetWithoutAgent or RolloutActive; nothing is
    changed then.
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
        strategy=service.strategy | (strategy or {}),
        reason=reason,
        kind=Rollout.Kind.DEPLOY,
        rolls_back=None,
    )


@transaction.atomic
def pause_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """Start nothing more; what is under way ends. Raises MoveNotAllowed, StaleVersion."""
    rollout, moves = _locked(actor, "rollout.pause", rollout_id, if_version)
    moves.move_rollout(RolloutState.PAUSED, reason=_said(actor, reason), verb="rollout.pause")
    return _commit(rollout, moves)


@transaction.atomic
def resume_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """Go on from where it stopped; targets that failed are tried again, nothing that succeeded is."""
    rollout, moves = _locked(actor, "rollout.resume", rollout_id, if_version)
    if rollout.state != RolloutState.PAUSED:
        raise MoveNotAllowed(f"Only a paused rollout can be resumed; this one is {_words(rollout)}.")
    moves.move_rollout(RolloutState.RUNNING, reason=_said(actor, reason), verb="rollout.resume")
    failed = list(
        rollout.targets.filter(state=TargetState.FAILED)
        .select_related("target", "batch")
        .order_by("position")
    )
    moves.move_targets(
        (
            MoveTarget(id=one.id, to=TargetState.STAGED if one.touched else TargetState.PENDING),
            TargetState.FAILED,
            one.target.name,
        )
        for one in failed
    )
    batches = {one.batch for one in failed}
    moves.move_batches(_reopen(sorted(batches, key=lambda batch: batch.position)))
    return _commit(rollout, moves)


@transaction.atomic
def cancel_rollout(*, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None) -> Rollout:
    """End it where it stands: targets that were changed stay changed, and the outcome says how many."""
    rollout, moves = _locked(actor, "rollout.cancel", rollout_id, if_version)
    touched = rollout.targets.filter(touched=True).count()
    total = rollout.targets.count()
    rest = (
        f"{touched} of {total} targets were changed and stay as they are."
        if touched
        else ("Nothing was changed.")
    )
    _close_tasks(rollout, moves, "The rollout was cancelled")
    staging = rollout.targets.filter(state=TargetState.STAGING).select_related("target")
    moves.move_targets(
        (MoveTarget(id=one.id, to=TargetState.PENDING), TargetState.STAGING, one.target.name)
        for one in staging
    )
    outcome = f"{_said(actor, reason).rstrip('.')}. {rest}"
    moves.move_rollout(RolloutState.CANCELLED, reason=outcome, verb="rollout.cancel")
    return _commit(rollout, moves)


@transaction.atomic
def roll_back_rollout(
    *, actor: Actor, rollout_id: UUID, reason: str, if_version: int | None = None
) -> Rollout:
    """Put the targets back on their last stable release.

    A rollout in flight turns round and is returned itself; one that has ended gets a rollout of the
    earlier stable release, which is returned. Raises NoStableRelease, MoveNotAllowed.
    """
    rollout, moves = _locked(actor, "rollout.rollback", rollout_id, if_version)
    if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        moves.move_rollout(RolloutState.ROLLING_BACK, reason=_said(actor, reason), verb="rollout.rollback")
        return _commit(rollout, moves)
    if rollout.is_active:
        raise MoveNotAllowed(
            f"The rollout is {_words(rollout)}: there is nothing to roll back yet. Cancel it."
        )
    standing = _standing(rollout)
    if standing is None:
        raise MoveNotAllowed(f"{rollout} left nothing changed; there is nothing to roll back.")
    if standing.id != rollout.id:
        raise MoveNotAllowed(f"What runs now came with another rollout, {standing}. Roll that one back.")
    return plan_rollout(
        actor=actor,
        service=rollout.service,
        environment=rollout.environment,
        release=_stable_before(rollout),
        strategy=_way_back(rollout),
        reason=reason,
        kind=Rollout.Kind.ROLLBACK,
        rolls_back=rollout,
    )


def _way_back(rollout: Rollout) -> dict[str, Any]:
    """The strategy of the rollout itself, with counts cut to the targets that there are by now."""
    total = Target.objects.filter(service=rollout.service, region__environment=rollout.environment).count()
    params = {
        name: min(value, max(total, 1))
        if name in ("batch", "max_unavailable") and isinstance(value, int)
        else value
        for name, value in rollout.plan.body["params"].items()
    }
    return params | {"name": rollout.plan.body["strategy"], "on_failure": "pause"}


def _standing(rollout: Rollout) -> Rollout | None:
    """The newest rollout here whose changes still stand: it moved targets and did not put them back."""
    moved = RolloutTarget.objects.filter(rollout=OuterRef("pk"), touched=True)
    return (
        Rollout.objects.filter(Exists(moved), service=rollout.service, environment=rollout.environment)
        .exclude(state=RolloutState.ROLLED_BACK)
        .first()
    )


def _stable_before(rollout: Rollout) -> Release:
    """The release of the newest earlier rollout here that succeeded with another release.

    One that a rollback has left is not gone back to.
    """
    earlier = (
        Rollout.objects.filter(
            service=rollout.service,
            environment=rollout.environment,
            state=RolloutState.SUCCEEDED,
            id__lt=rollout.id,
            rollbacks__isnull=True,
        )
        .exclude(release=rollout.release)
        .select_related("release__artifact", "release__config", "release__service")
        .first()
    )
    if earlier is None:
        raise NoStableRelease
    return earlier.release


def _locked(actor: Actor, verb: str, rollout_id: UUID, if_version: int | None) -> tuple[Rollout, Moves]:
    rollout = access.get(actor, verb, Rollout.objects.select_related("service__team"), id=rollout_id)
    rollout = (
        Rollout.objects.select_for_update(of=("self",), no_key=True)
        .select_related(*RELATED)
        .get(id=rollout.id)
    )
    if if_version is not None and if_version != rollout.event_count:
        raise StaleVersion
    return rollout, Moves(rollout, actor=actor, now=_database_now())


def _commit(rollout: Rollout, moves: Moves) -> Rollout:
    moves.record()
    if rollout.is_active:
        # Until the engine has looked: no rollout is without an answer, and none with a wrong one.
        waiting = say_paused(rollout.outcome) if rollout.state == RolloutState.PAUSED else UNTICKED
        waiting = msgspec.structs.replace(waiting, since=moves.now)
        Rollout.objects.filter(pk=rollout.pk).update(waiting_on=msgspec.to_builtins(waiting))
    queueing.tick(rollout.id)
    return Rollout.objects.select_related(*RELATED).get(id=rollout.id)


def _close_tasks(rollout: Rollout, moves: Moves, reason: str) -> None:
    open_tasks = rollout.tasks.filter(state__in=TASK_OPEN).values_list("id", flat=True)
    moves.close_tasks([CloseTask(task, TaskState.CANCELLED, reason) for task in open_tasks])


def _reopen(batches: Sequence[Batch]) -> list[tuple[MoveBatch, BatchState, str]]:
    """Moves that bring finished batches back to running, by way of failed as the table asks."""
    moves: list[tuple[MoveBatch, BatchState, str]] = []
    for batch in batches:
        state = BatchState(batch.state)
        if state in (BatchState.BAKING, BatchState.SUCCEEDED):
            moves.append((MoveBatch(batch.id, BatchState.FAILED), state, str(batch)))
            state = BatchState.FAILED
        if state is BatchState.FAILED:
            moves.append((MoveBatch(batch.id, BatchState.RUNNING), state, str(batch)))
    return moves


def _said(actor: Actor, reason: str) -> str:
    return f"{reason.strip()} ({actor.name})" if reason.strip() else f"by {actor.name}"


def _words(rollout: Rollout) -> str:
    return rollout.state.replace("_", " ")


def _database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
