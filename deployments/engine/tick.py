"""One look at one rollout: claim, read, decide, write, let go. Milliseconds, and repeatable at any point."""

from uuid import UUID

import structlog
from django.db import transaction

from deployments import queueing
from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE, WAITING_FOR_SLOT, RolloutState
from deployments.engine import lease, slots
from deployments.engine.apply import apply
from deployments.engine.planner import plan
from deployments.engine.snapshot import load
from deployments.engine.transition import Moves
from deployments.models import Rollout

log = structlog.get_logger(__name__)


def tick(rollout_id: UUID) -> bool:
    """Move the rollout as far as it can go now.

    Returns False when there was nothing to own: it is at its end, or another worker holds the lease and
    will look again on its own. Raises LeaseLost when this worker was too slow and another took over.
    """
    owned = False
    while held := lease.claim(rollout_id, sorted(ACTIVE)):
        owned = True
        if not _once(held):
            break
    return owned


def _once(held: lease.Lease) -> bool:
    """Do one round under the lease; True when somebody asked for another in the meantime."""
    with transaction.atomic():
        now = lease.guard(held)
        # The rest, for the name in an event, is read only when the rollout itself moves.
        rollout = Rollout.objects.only("state", "outcome", "request_id", "release").get(id=held.rollout_id)
        before = RolloutState(rollout.state)
        moves = Moves(rollout, actor=Actor.system("engine", request_id=rollout.request_id), now=now)
        moves.take_reports()
        slot = slots.look(held.rollout_id, now) if before in WAITING_FOR_SLOT else None
        snapshot = load(held.rollout_id, slot)
        actions = plan(snapshot, now)
        apply(actions, snapshot, moves, fence=held.fence, now=now)
        moves.record()
        if slot and slot.following:
            queueing.tick(slot.following)
        again = lease.release(held)
    if rollout.state != before:
        log.info(
            "rollout moved",
            rollout_id=str(rollout.id),
            request_id=rollout.request_id,
            before=before,
            after=str(rollout.state),
            reason=rollout.outcome,
        )
    return again
