"""Putting right what drifted, where the environment says so: by a rollout of its own, that people see."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from deployments import access
from deployments.domain import drift
from deployments.domain.actor import Actor
from deployments.domain.drift import Cause
from deployments.domain.states import ACTIVE
from deployments.engine import repairs
from deployments.errors import SlipwayError
from deployments.models import Environment, Release, Rollout, Service, Target
from deployments.models.agents import SILENT_AFTER_HEARTBEATS
from deployments.services.planning import plan_rollout

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 2
"""Drift that is gone by then was somebody at work."""
SETTLE_PROCESS_SECONDS = 20
"""An agent starts a service that ended again by itself; a repair is for where that does not help."""
REFUSED_SECONDS = 60
"""After a repair that could not be planned, as for a release that is on hold."""

STRATEGY = {"on_failure": "abort", "on_silent": "abort"}
"""A repair that fails makes room for people, and for the next repair; there is nothing to go back to."""

# The release that should run is the stable one: what a rollout left half done is not for a repair to undo.
DRIFTED = """
    SELECT target.service_id, region.environment_id, target.release_id,
           array_agg(target.id ORDER BY target.drift_since, target.id),
           array_agg(target.drift_since ORDER BY target.drift_since, target.id)
    FROM deployments_target target
    JOIN deployments_region region ON region.id = target.region_id
    JOIN deployments_environment environment ON environment.id = region.environment_id
    JOIN deployments_agent agent ON agent.id = target.agent_id
    WHERE target.drift <> '' AND environment.on_drift = 'repair' AND agent.revoked_at IS NULL
      AND target.release_id IS NOT NULL AND target.release_id = target.stable_release_id
      AND agent.last_seen_at > clock_timestamp() - %(silent)s * interval '1 second'
      AND target.drift_since < clock_timestamp() - interval '1 second'
            * CASE WHEN target.drift = %(process)s THEN %(settle_process)s ELSE %(settle)s END
      AND NOT EXISTS (
          SELECT FROM deployments_rollout rollout
          WHERE rollout.service_id = target.service_id AND rollout.environment_id = region.environment_id
            AND rollout.state = ANY(%(active)s))
    GROUP BY target.service_id, region.environment_id, target.release_id
    ORDER BY min(target.drift_since)
"""

_refused: dict[tuple[UUID, UUID], datetime] = {}
"""Where a repair could not be planned, and until when that is not tried again; of this process alone."""


class Drifted(msgspec.Struct, frozen=True):
    """Targets of a service that stand still in one environment, and run something else than they should."""

    service_id: UUID
    environment_id: UUID
    release_id: UUID
    target_ids: Sequence[UUID]
    """The one that drifted first comes first."""
    since: Sequence[datetime]
    """When each of them drifted."""


def repair_drift(*, actor: Actor) -> list[Rollout]:
    """Start a repair for each service and environment that needs one now; returns those that were started.

    A repair is a rollout of the stable release onto the drifted targets alone; raises NotFound or NotAllowed
    for an actor who may not deploy. After one that did not hold
    the next waits longer and longer (`domain.drift.next_repair_at`).
    """
    now = timezone.now()
    started: dict[tuple[UUID, UUID], Rollout] = {}
    for drifted in _drifted():
        where = (drifted.service_id, drifted.environment_id)
        if where in started or _refused.get(where, now) > now:
            continue
        earlier = repairs.ended(drifted.target_ids)
        due = {
            target_id: drift.failures_in_a_row(earlier[target_id], since)
            for target_id, since in zip(drifted.target_ids, drifted.since, strict=True)
            if drift.next_repair_at(earlier[target_id], since) <= now
        }
        if not due:
            continue
        service = Service.objects.select_related("team").get(id=drifted.service_id)
        access.require(actor, "rollout.create", service)
        try:
            started[where] = _repair(actor, service, drifted, due)
        except SlipwayError as error:
            _refused[where] = now + timedelta(seconds=REFUSED_SECONDS)
            log.warning("a repair cannot be planned", service_id=str(where[0]), error=error.message)
    return list(started.values())


def _drifted() -> list[Drifted]:
    with connection.cursor() as cursor:
        cursor.execute(
            DRIFTED,
            {
                "silent": SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds,
                "process": Cause.PROCESS,
                "settle_process": SETTLE_PROCESS_SECONDS,
                "settle": SETTLE_SECONDS,
                "active": sorted(ACTIVE),
            },
        )
        return [Drifted(*row) for row in cursor.fetchall()]


@transaction.atomic
def _repair(actor: Actor, service: Service, drifted: Drifted, due: Mapping[UUID, int]) -> Rollout:
    """Plan one for the targets in `due`, each with how many repairs before did not hold."""
    release = Release.objects.select_related("artifact", "config", "service").get(id=drifted.release_id)
    return plan_rollout(
        actor=actor,
        service=service,
        environment=Environment.objects.get(id=drifted.environment_id),
        release=release,
        strategy=STRATEGY,
        reason=_reason(due, release),
        kind=Rollout.Kind.REPAIR,
        only=due.keys(),
        priority=Rollout.Priority.LOW,
    )


def _reason(due: Mapping[UUID, int], release: Release) -> str:
    first = Target.objects.get(id=next(iter(due)))
    failures = max(due.values())
    where = first.name if len(due) == 1 else f"{first.name} and {len(due) - 1} more"
    said = drift.sentence(first.drift, drift.read(first.id, first.reported), release.version)
    held = {0: "", 1: " The repair before this one did not hold."}
    return f"Repair of {where}. {said}{held.get(failures, f' {failures} repairs before did not hold.')}"
