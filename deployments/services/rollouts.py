"""Commands on rollouts: each checks permission, changes rows, records and wakes the engine, as one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import IntegrityError, connection, transaction

from deployments import access, events, queueing
from deployments.domain import config
from deployments.domain.actions import CloseTask, MoveBatch, MoveTarget
from deployments.domain.actor import Actor
from deployments.domain.plan import PlanBody
from deployments.domain.states import TASK_OPEN, BatchState, RolloutState, TargetState, TaskState
from deployments.domain.waiting import Waiting
from deployments.engine.explain import say_paused
from deployments.engine.transition import Moves
from deployments.errors import (
    Invalid,
    MoveNotAllowed,
    NoStableRelease,
    NothingToDeploy,
    RolloutActive,
    StaleVersion,
    TargetWithoutAgent,
)
from deployments.models import (
    Batch,
    Environment,
    Plan,
    Release,
    Rollout,
    RolloutTarget,
    Service,
    Target,
    Wave,
)
from deployments.strategies import registry
from deployments.strategies.base import TargetRef

UNTICKED = Waiting(
    kind="engine",
    subject="engine",
    sentence="Waiting for a worker to take it up; that takes no longer than a moment where one runs",
    who="whoever runs the workers, if it lasts",
    unblock=("cancel",),
)
RELATED = ("service__team", "environment", "release__artifact", "release__config")


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
    return _create(
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
    batches = {one.batch for one in failed if one.touched}
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
    newest = Rollout.objects.filter(service=rollout.service, environment=rollout.environment).first()
    if newest is not None and newest.id != rollout.id:
        raise MoveNotAllowed(f"A later rollout, {newest}, has taken its place. Roll that one back.")
    return _create(
        actor=actor,
        service=rollout.service,
        environment=rollout.environment,
        release=_stable_before(rollout),
        strategy=rollout.plan.body["params"] | {"name": rollout.plan.body["strategy"], "on_failure": "pause"},
        reason=reason,
        kind=Rollout.Kind.ROLLBACK,
        rolls_back=rollout,
    )


def _stable_before(rollout: Rollout) -> Release:
    """The release of the newest earlier rollout here that succeeded with another release."""
    earlier = (
        Rollout.objects.filter(
            service=rollout.service,
            environment=rollout.environment,
            state=RolloutState.SUCCEEDED,
            id__lt=rollout.id,
        )
        .exclude(release=rollout.release)
        .select_related("release__artifact", "release__config", "release__service")
        .first()
    )
    if earlier is None:
        raise NoStableRelease
    return earlier.release


def _create(
    *,
    actor: Actor,
    service: Service,
    environment: Environment,
    release: Release,
    strategy: dict[str, Any],
    reason: str,
    kind: Rollout.Kind,
    rolls_back: Rollout | None,
) -> Rollout:
    targets = list(
        Target.objects.filter(service=service, region__environment=environment)
        .select_related("region")
        .order_by("region__position", "region__name", "name")
    )
    _check_targets(service, environment, release, targets)
    chosen, params = registry.parse(strategy)
    chosen.check(params, len(targets))
    body = PlanBody(
        service=service.name,
        environment=environment.name,
        release=release.version,
        artifact_digest=release.artifact.digest,
        config_digest=release.config.digest,
        kind=kind,
        strategy=chosen.name,
        params=msgspec.to_builtins(params),
        waves=chosen.lay_out([_ref(target) for target in targets], params),
    )
    active = Rollout.objects.filter(service=service, environment=environment).active().first()
    if active is not None:
        raise RolloutActive(rollout=str(active.id))
    rollout = Rollout(
        service=service,
        environment=environment,
        release=release,
        kind=kind,
        rolls_back=rolls_back,
        requested_by=actor.name,
        request_id=actor.request_id,
        reason=reason[:500],
        waiting_on=msgspec.to_builtins(UNTICKED),
    )
    try:
        with transaction.atomic():
            rollout.save(force_insert=True)
    except IntegrityError:
        raise RolloutActive from None
    _write_plan(rollout, body, {str(target.id): target for target in targets})
    created = events.done(
        "rollout.create",
        rollout,
        after={"state": rollout.state, "plan_digest": body.digest},
        reason=reason,
        event="rollout.created",
    )
    events.record(actor=actor, rollout_id=rollout.id, changes=[created])
    queueing.tick(rollout.id)
    return Rollout.objects.select_related(*RELATED).get(id=rollout.id)


def _write_plan(rollout: Rollout, body: PlanBody, targets: dict[str, Target]) -> None:
    Plan.objects.create(rollout=rollout, digest=body.digest, body=msgspec.to_builtins(body))
    waves: list[Wave] = []
    batches: list[Batch] = []
    members: list[RolloutTarget] = []
    for wave_plan in body.waves:
        wave = Wave(rollout=rollout, position=len(waves), name=wave_plan.name)
        waves.append(wave)
        for batch_plan in wave_plan.batches:
            batch = Batch(rollout=rollout, wave=wave, position=len(batches))
            batches.append(batch)
            for target_id in batch_plan.targets:
                target = targets[target_id]
                members.append(
                    RolloutTarget(
                        rollout=rollout,
                        batch=batch,
                        target=target,
                        position=len(members),
                        previous_release_id=target.stable_release_id,
                    )
                )
    Wave.objects.bulk_create(waves)
    Batch.objects.bulk_create(batches)
    RolloutTarget.objects.bulk_create(members)


def _check_targets(
    service: Service, environment: Environment, release: Release, targets: Sequence[Target]
) -> None:
    """Find before the start what would fail on every target: no agent, a placeholder without a value."""
    if not targets:
        raise NothingToDeploy(
            f"{service} has no targets in {environment}. Register targets there, then start again."
        )
    bare = [target.name for target in targets if target.agent_id is None]
    if bare:
        raise TargetWithoutAgent(
            f"{len(bare)} of {len(targets)} targets have no agent: {', '.join(bare[:5])}. "
            "Enrol an agent and assign them to it."
        )
    overlay = release.config.overlays.get(environment.name, {})
    for target in targets:
        config.resolve(
            release.config.base,
            overlay,
            placeholders(service, environment, release, target),
            f"config {release.config.number} on {target.name}",
        )


def placeholders(
    service: Service, environment: Environment, release: Release, target: Target
) -> dict[str, str]:
    """What `${...}` in a configuration may name for this target."""
    return target.facts() | {
        "service": service.name,
        "environment": environment.name,
        "version": release.version,
    }


def _ref(target: Target) -> TargetRef:
    return TargetRef(
        id=str(target.id),
        name=target.name,
        region=target.region.name,
        region_position=target.region.position,
    )


def _locked(actor: Actor, verb: str, rollout_id: UUID, if_version: int | None) -> tuple[Rollout, Moves]:
    rollout = access.get(actor, verb, Rollout.objects.select_related("service__team"), id=rollout_id)
    rollout = Rollout.objects.select_for_update(of=("self",)).select_related(*RELATED).get(id=rollout.id)
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
