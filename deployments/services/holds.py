"""Commands on holds: keep a release out, and let it in again."""

from uuid import UUID

from django.db import transaction

from deployments import access, events
from deployments.domain.actor import Actor
from deployments.engine import holds
from deployments.errors import Conflict, Invalid
from deployments.models import Hold, Release


@transaction.atomic
def hold_release(*, actor: Actor, release_id: UUID, reason: str) -> Hold:
    """Keep the release out of every environment until the hold is lifted; raises Invalid, Conflict."""
    release = _release(actor, release_id, reason)
    change = holds.place(release.id, rollout_id=None, reason=reason.strip(), actor=actor)
    if change is None:
        raise Conflict(f"{release} is on hold already.")
    events.record(actor=actor, changes=[change])
    return Hold.objects.select_related("release__service").get(release=release, lifted_at__isnull=True)


@transaction.atomic
def lift_hold(*, actor: Actor, release_id: UUID, reason: str) -> Release:
    """Let the release in again; raises Invalid, Conflict where there is no hold."""
    release = _release(actor, release_id, reason)
    if not holds.lift(release.id, reason=reason.strip(), actor=actor):
        raise Conflict(f"{release} is not on hold.")
    change = events.done("release.lift", release, before={"hold": True}, after={"hold": False}, reason=reason)
    events.record(actor=actor, changes=[change])
    return release


def _release(actor: Actor, release_id: UUID, reason: str) -> Release:
    releases = Release.objects.select_related("service__team")
    release = access.get(actor, "release.hold", releases, id=release_id)
    if not reason.strip():
        raise Invalid(reason="say why: whoever meets the hold later reads it")
    return release
