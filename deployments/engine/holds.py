"""Holds: a release that went wrong stays out until somebody lifts its hold. The only writer of the rows."""

from uuid import UUID

from django.db import connection

from deployments import queueing
from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE
from deployments.events import Change
from deployments.models.base import new_id

PLACE = """
    INSERT INTO deployments_hold (id, release_id, rollout_id, reason, placed_by, lifted_by, lift_reason)
    VALUES (%(id)s, %(release)s, %(rollout)s, left(%(reason)s, 500), left(%(actor)s, 150), '', '')
    ON CONFLICT (release_id) WHERE lifted_at IS NULL DO NOTHING
    RETURNING (SELECT s.name || ' ' || r.version FROM deployments_release r
               JOIN deployments_service s ON s.id = r.service_id WHERE r.id = release_id)
"""
LIFT = """
    UPDATE deployments_hold SET
        lifted_at = clock_timestamp(), lifted_by = left(%(actor)s, 150), lift_reason = left(%(reason)s, 500)
    WHERE release_id = %(release)s AND lifted_at IS NULL
"""

CONCERNED = """
    SELECT r.id FROM deployments_rollout r
    WHERE r.state = ANY(%(active)s) AND r.id IS DISTINCT FROM %(but)s::uuid
      AND (r.release_id = %(release)s OR EXISTS (
          SELECT FROM deployments_rollouttarget rt
          WHERE rt.rollout_id = r.id AND rt.previous_release_id = %(release)s))
    ORDER BY r.id
"""


def place(release_id: UUID, *, rollout_id: UUID | None, reason: str, actor: Actor) -> Change | None:
    """Put the release on hold; returns what to record, or None where it is on hold already."""
    values = {"id": new_id(), "release": release_id, "rollout": rollout_id, "reason": reason}
    with connection.cursor() as cursor:
        cursor.execute(PLACE, values | {"actor": actor.name})
        row = cursor.fetchone()
    if row is None:
        return None
    _wake(release_id, but=rollout_id)
    return Change(
        verb="release.hold",
        object_kind="release",
        object_id=str(release_id),
        object_name=row[0],
        after={"hold": True},
        reason=reason,
        event="release.hold",
    )


def lift(release_id: UUID, *, reason: str, actor: Actor) -> bool:
    """End the hold; False where there is none."""
    with connection.cursor() as cursor:
        cursor.execute(LIFT, {"release": release_id, "reason": reason, "actor": actor.name})
        was_held = bool(cursor.rowcount)
    if was_held:
        _wake(release_id, but=None)
    return was_held


def _wake(release_id: UUID, *, but: UUID | None) -> None:
    """Have the rollouts looked at that bring the release, or could go back to it."""
    with connection.cursor() as cursor:
        cursor.execute(CONCERNED, {"release": release_id, "active": sorted(ACTIVE), "but": but})
        rows = cursor.fetchall()
    for (rollout_id,) in rows:
        queueing.tick(rollout_id)
