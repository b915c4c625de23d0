"""From a wish to a planned rollout: what is checked before the start, and the rows that it begins with."""

from collections.abc import Sequence
from typing import Any

import msgspec
from django.db import IntegrityError, transaction

from deployments import events, queueing
from deployments.domain import config
from deployments.domain.actor import Actor
from deployments.domain.plan import PlanBody
from deployments.domain.waiting import Waiting
from deployments.errors import NothingToDeploy, RolloutActive, TargetWithoutAgent
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


def plan_rollout(
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
    # Locked, so that no target loses its agent between the check and the start.
    targets = list(
        Target.objects.select_for_update(of=("self",), no_key=True)
        .filter(service=service, region__environment=environment)
        .select_related("region", "agent")
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
