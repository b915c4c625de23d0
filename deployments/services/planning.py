"""From a wish to a planned rollout: what is checked before the start, and the rows that it begins with."""

from collections.abc import Collection, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec
from django.conf import settings
from django.utils import timezone

from deployments import events, queueing
from deployments.domain import config
from deployments.domain.actor import Actor
from deployments.domain.plan import PlanBody
from deployments.domain.states import RolloutState
from deployments.domain.waiting import Waiting
from deployments.engine.transition import Moves
from deployments.errors import (
    Invalid,
    NothingToDeploy,
    QueueFull,
    ReleaseOnHold,
    RolloutActive,
    TargetWithoutAgent,
)
from deployments.models import (
    Batch,
    Environment,
    Hold,
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
IfBusy = Literal["refuse", "queue", "supersede"]
"""What happens to a rollout while another of the service there is not at its end."""
REACTIONS = ("on_failure", "on_task_failure", "on_unhealthy", "on_timeout", "on_silent")
RELATED = ("service__team", "environment", "release__artifact", "release__config")


def plan_rollout(
    *,
    actor: Actor,
    service: Service,
    environment: Environment,
    release: Release,
    strategy: dict[str, Any],
    reason: str,
    asked_for: frozenset[str] = frozenset(),
    kind: Rollout.Kind = Rollout.Kind.DEPLOY,
    rolls_back: Rollout | None = None,
    retries: Rollout | None = None,
    only: Collection[UUID] | None = None,
    priority: Rollout.Priority = Rollout.Priority.NORMAL,
    if_busy: IfBusy = "refuse",
) -> Rollout:
    """Write a rollout and its plan, and wake the engine; within the caller's transaction.

    `asked_for` names the parameters that this very request set, `only` the targets that take part. Raises
    ReleaseOnHold, NothingToDeploy, TargetWithoutAgent, Invalid, RolloutActive or QueueFull.
    """
    check_hold(release)
    _supersede(actor, service, environment, release, kind, if_busy)
    # Locked, so that no target loses its agent between the check and the start.
    here = Target.objects.filter(service=service, region__environment=environment)
    targets = list(
        (here if only is None else here.filter(id__in=only))
        .select_for_update(of=("self",), no_key=True)
        .select_related("region", "agent")
        # As the engine locks them: of two that meet here, one waits.
        .order_by("id")
    )
    targets.sort(key=lambda one: (one.region.position, one.region.name, one.name))
    _check_targets(service, environment, release, targets)
    chosen, params = registry.parse(strategy)
    chosen.check(params, len(targets))
    if any(name in asked_for and getattr(params, name) == "rollback" for name in REACTIONS):
        _check_way_back(service, environment, targets)
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
    _check_room(service, environment, kind, if_busy)
    rollout = Rollout(
        service=service,
        environment=environment,
        release=release,
        kind=kind,
        rolls_back=rolls_back,
        retries=retries,
        priority=priority,
        requested_by=actor.name,
        request_id=actor.request_id,
        reason=reason[:500],
        waiting_on=msgspec.to_builtins(UNTICKED),
    )
    rollout.save(force_insert=True)
    _write_plan(rollout, body, {str(target.id): target for target in targets})
    created = events.done(
        "rollout.create",
        rollout,
        after={
            "state": rollout.state,
            "plan_digest": body.digest,
            "priority": Rollout.Priority(priority).label,
        },
        reason=reason,
        event="rollout.created",
    )
    events.record(actor=actor, rollout_id=rollout.id, changes=[created])
    queueing.tick(rollout.id)
    return Rollout.objects.select_related(*RELATED).get(id=rollout.id)


def check_hold(release: Release) -> None:
    hold = Hold.objects.filter(release=release, lifted_at__isnull=True).first()
    if hold is not None:
        raise ReleaseOnHold(
            f"{release} is on hold since {hold.created_at:%Y-%m-%d %H:%M} UTC ({hold.placed_by}): "
            f"{hold.reason.rstrip('.')}. Lift its hold first, or choose another release.",
            release=str(release.id),
        )


def _check_way_back(service: Service, environment: Environment, targets: Sequence[Target]) -> None:
    if not any(target.stable_release_id for target in targets):
        raise Invalid(
            strategy=f"a rollback on failure was asked for, but no target of {service} in {environment} has "
            "a stable release to go back to yet. Choose pause or abort for this one."
        )


def _check_room(service: Service, environment: Environment, kind: Rollout.Kind, if_busy: IfBusy) -> None:
    """The targets' rows are locked: of two that start here at once, one sees the other."""
    here = Rollout.objects.filter(service=service, environment=environment)
    active = here.active().select_related("release__service", "environment").first()
    if active is not None and if_busy == "refuse":
        what = {Rollout.Kind.DEPLOY: "rollout", Rollout.Kind.ROLLBACK: "rollback"}.get(
            Rollout.Kind(active.kind), "repair"
        )
        raise RolloutActive(
            f"A {what}, {active}, is {active.state.replace('_', ' ')}. Wait for it, cancel it or roll it "
            "back, or queue up behind it.",
            rollout=str(active.id),
        )
    if kind == Rollout.Kind.ROLLBACK:
        return
    waiting = Rollout.objects.waiting_for_slot().count()
    if waiting >= settings.SLIPWAY.max_queued_rollouts:
        raise QueueFull(
            f"{waiting} rollouts wait in the queue already, which is the limit. "
            "Cancel some that are not needed, or try again later."
        )


def _supersede(
    actor: Actor,
    service: Service,
    environment: Environment,
    release: Release,
    kind: Rollout.Kind,
    if_busy: IfBusy,
) -> None:
    """End those that still wait for their slot here, where that is asked: a newer one takes their place.

    A repair that waits is in nobody's way: what comes instead puts the target right too, or it drifts on.
    """
    waiting = Rollout.objects.waiting_for_slot().filter(service=service, environment=environment)
    if if_busy != "supersede":
        waiting = waiting.filter(kind=Rollout.Kind.REPAIR).exclude(kind=kind)
    for older in waiting.select_for_update(of=("self",), no_key=True).select_related(*RELATED).order_by("id"):
        moves = Moves(older, actor=actor, now=timezone.now())
        moves.move_rollout(
            RolloutState.SUPERSEDED,
            reason=f"{release.version} came in its place. Nothing was changed.",
            verb="rollout.supersede",
        )
        moves.record()


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
    bare = [target.name for target in targets if target.agent is None or target.agent.revoked_at]
    if bare:
        raise TargetWithoutAgent(
            f"{len(bare)} of {len(targets)} targets have no agent that may work: {', '.join(bare[:5])}. "
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
