"""Telling of what changed on targets: to whoever watches, to the engine's events, to the audit log."""

import functools
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
import structlog
from django.db import connection, transaction

from deployments import events
from deployments.domain.actor import Actor, ActorKind
from deployments.domain.states import MOVING

logger = structlog.get_logger(__name__)

CHANNEL = "slipway_targets"
"""Payload: the id of a target whose health, status, release or drift changed."""

AGENTS = Actor(kind=ActorKind.AGENT, id="agents", name="agents")
ROLLOUTS = """
    SELECT progress.target_id, rollout.id FROM deployments_rollouttarget progress
    JOIN deployments_rollout rollout ON rollout.id = progress.rollout_id
    WHERE progress.target_id = ANY(%s) AND rollout.state = ANY(%s) ORDER BY rollout.id
"""


class Turn(msgspec.Struct, frozen=True):
    """A target before and after; the order is that of `observations.OBSERVE` and `liveness.FALL_SILENT`."""

    target_id: UUID
    name: str
    agent_id: UUID | None
    health_before: str
    health: str
    status: str
    drift_before: str
    drift: str
    was_silent: bool
    """Whether its agent had been silent for so long that nothing was known of it."""
    reason: str = ""
    """One sentence for people on what drifted."""


def tell(turned: Sequence[Turn]) -> frozenset[UUID]:
    """Tell of these targets and return the moving rollouts that they take part in, for the caller to wake.

    Drift is evidence, and so written in the caller's transaction. Events come after its commit, because
    an event locks its rollout: the engine takes that lock before it takes those of the targets, which this
    transaction holds already.
    """
    if not turned:
        return frozenset()
    by_target = {turn.target_id: turn for turn in turned}
    by_rollout: dict[UUID, list[Turn]] = {}
    events.record(actor=AGENTS, changes=[_drift(turn) for turn in turned if turn.drift_before != turn.drift])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_notify(%s, id::text) FROM unnest(%s::uuid[]) AS id", [CHANNEL, list(by_target)]
        )
        cursor.execute(ROLLOUTS, [list(by_target), sorted(MOVING)])
        for target_id, rollout_id in cursor.fetchall():
            by_rollout.setdefault(rollout_id, []).append(by_target[target_id])
    shown = {
        rollout_id: changes
        for rollout_id, turns in by_rollout.items()
        if (changes := [change for turn in turns for change in _events(turn)])
    }
    transaction.on_commit(functools.partial(_record, shown))
    _log(turned)
    return frozenset(by_rollout)


def _record(shown: Mapping[UUID, Sequence[events.Change]]) -> None:
    for rollout_id, changes in shown.items():
        with transaction.atomic():
            events.record(actor=AGENTS, rollout_id=rollout_id, changes=changes)


def _events(turn: Turn) -> list[events.Change]:
    changes = []
    # A target that comes up under a rollout is told as its state; the same again as health is noise.
    comes_up = (turn.health_before, turn.health) == ("unknown", "healthy") and not turn.was_silent
    if turn.health_before != turn.health and not comes_up:
        changes.append(
            _change(turn, "health", turn.health_before, turn.health, event="target.health", audited=False)
        )
    if turn.drift_before != turn.drift:
        changes.append(
            _change(turn, "drift", turn.drift_before, turn.drift, event="target.drift", audited=False)
        )
    return changes


def _drift(turn: Turn) -> events.Change:
    return _change(turn, "drift", turn.drift_before, turn.drift)


def _change(
    turn: Turn, what: str, before: str, after: str, *, event: str = "", audited: bool = True
) -> events.Change:
    return events.Change(
        verb=f"target.{what}",
        object_kind="target",
        object_id=str(turn.target_id),
        object_name=turn.name,
        before={what: before},
        after={what: after},
        reason=turn.reason if what == "drift" else "",
        event=event,
        audited=audited,
        data={"status": turn.status, "agent_id": str(turn.agent_id or "")},
    )


def _log(turned: Sequence[Turn]) -> None:
    for turn in turned:
        if (turn.health_before, turn.drift_before) != (turn.health, turn.drift):
            logger.info(
                "target.turned",
                target=turn.name,
                target_id=str(turn.target_id),
                health_before=turn.health_before,
                health=turn.health,
                drift_before=turn.drift_before,
                drift=turn.drift,
            )
