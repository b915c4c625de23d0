"""One owner per rollout: a lease with a fencing token, by the database's clock.

The claim is a transaction of its own, so that a worker that dies leaves a lease that runs out rather
than a lock that hangs. A worker that was stopped past its lease finds at `guard` that the fence has
moved on, and what it decided is void. Fences come from one sequence for the whole control plane, so
that an agent can compare those of different rollouts of one target.
"""

import os
import uuid
from datetime import datetime
from uuid import UUID

import msgspec
from django.db import connection

from deployments import processes
from deployments.errors import LeaseLost

LEASE_SECONDS = 15

# The claim need not reach the disk: what is decided under it does, and with it all that came before.
# One plain UPDATE: with the row locked in a subquery first, two claims at once deadlock over its tuple lock.
# `statement_timestamp()` is the same in all its expressions.
FREE = "(lease_until IS NULL OR lease_until < statement_timestamp())"
CLAIM = f"""
    UPDATE deployments_rollout SET
        lease_owner = CASE WHEN {FREE} THEN %(owner)s ELSE lease_owner END,
        lease_until = CASE WHEN {FREE} THEN clock_timestamp() + %(seconds)s * interval '1 second'
                           ELSE lease_until END,
        fence = CASE WHEN {FREE} THEN nextval('slipway_fence') ELSE fence END,
        wake_again = NOT {FREE}
    WHERE id = %(id)s AND state = ANY(%(active)s) AND quarantined_at IS NULL
      AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
    RETURNING lease_owner = %(owner)s, fence
"""  # noqa: S608  # FREE is a constant of this module
# NO KEY: rows that refer to the rollout (reports, events) are written meanwhile, and must not wait for it:
# who writes them may hold a target that the engine is about to change.
GUARD = """
    SELECT clock_timestamp() FROM deployments_rollout
    WHERE id = %(id)s AND lease_owner = %(owner)s AND fence = %(fence)s
      AND lease_until > clock_timestamp()
    FOR NO KEY UPDATE
"""
RELEASE = """
    UPDATE deployments_rollout AS r SET lease_owner = '', lease_until = NULL, wake_again = false
    FROM (SELECT id, wake_again FROM deployments_rollout WHERE id = %(id)s) AS before
    WHERE r.id = before.id AND r.lease_owner = %(owner)s
    RETURNING before.wake_again
"""
OWNER = "SELECT lease_owner FROM deployments_rollout WHERE id = %(id)s AND lease_until IS NOT NULL"
FREE_FROM = """
    UPDATE deployments_rollout SET lease_owner = '', lease_until = NULL, wake_again = false
    WHERE id = %(id)s AND lease_owner = %(owner)s
"""


class Lease(msgspec.Struct, frozen=True):
    rollout_id: UUID
    owner: str
    fence: int


def claim(rollout_id: UUID, active: list[str]) -> Lease | None:
    """Take the lease. None when the rollout is at its end, or somebody holds it: they will look again."""
    owner = f"{processes.name(os.getpid())}:{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, {"owner": owner, "seconds": LEASE_SECONDS, "id": rollout_id, "active": active})
        row = cursor.fetchone()
    return Lease(rollout_id, owner, row[1]) if row and row[0] else None


def guard(lease: Lease) -> datetime:
    """Lock the rollout for this transaction and return the database's time; raises LeaseLost."""
    with connection.cursor() as cursor:
        cursor.execute(GUARD, {"id": lease.rollout_id, "owner": lease.owner, "fence": lease.fence})
        row = cursor.fetchone()
    if row is None:
        raise LeaseLost
    now: datetime = row[0]
    return now


def release(lease: Lease) -> bool:
    """Give the lease back, in the transaction that `guard` began; True when a tick came in the meantime."""
    with connection.cursor() as cursor:
        cursor.execute(RELEASE, {"id": lease.rollout_id, "owner": lease.owner})
        row = cursor.fetchone()
    return bool(row and row[0])


def free(rollout_id: UUID) -> None:
    """Take the lease from an owner who will not give it back: this process after an error, or a dead one.

    Whoever waits for the rollout need not wait for the lease to run out then. Should the owner be alive
    after all, `guard` tells it that the lease is lost.
    """
    with connection.cursor() as cursor:
        cursor.execute(OWNER, {"id": rollout_id})
        row = cursor.fetchone()
        owner: str = row[0] if row else ""
        holder = owner.rpartition(":")[0]
        if holder == processes.name(os.getpid()) or processes.is_dead(holder):
            cursor.execute(FREE_FROM, {"id": rollout_id, "owner": owner})
