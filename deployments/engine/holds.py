"""Holds: a release that went wrong stays out until somebody lifts its hold. The only writer of the rows."""

from uuid import UUID

from django.db import connection

from deployments.domain.actor import Actor
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


def place(release_id: UUID, *, rollout_id: UUID | None, reason: str, actor: Actor) -> Change | None:
    """Put the release on hold; returns what to record, or None where it is on hold already."""
    values = {"id": new_id(), "release": release_id, "rollout": rollout_id, "reason": reason}
    with connection.cursor() as cursor:
        cursor.execute(PLACE, values | {"actor": actor.name})
        row = cursor.fetchone()
    if row is None:
        return None
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
        return bool(cursor.rowcount)
