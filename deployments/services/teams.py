"""Teams and who is in them."""

from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from deployments import access, events
from deployments.domain.actor import Actor
from deployments.engine import slots
from deployments.errors import Conflict, Invalid
from deployments.models import Membership, Team
from deployments.services.rows import check_fields, check_limit, insert


@transaction.atomic
def create_team(*, actor: Actor, name: str, title: str = "") -> Team:
    access.require(actor, "team.create")
    team = insert(Team(name=name, title=title), exists=f"There is a team “{name}” already.")
    change = events.done("team.create", team, after={"name": name, "title": title})
    events.record(actor=actor, changes=[change])
    return team


@transaction.atomic
def change_team(*, actor: Actor, team_id: UUID, max_active: int | None) -> Team:
    """Set how many of the team's rollouts may move at once; None: no limit. For administrators."""
    access.require(actor, "team.limit")
    team = access.get(actor, "team.view", Team.objects.select_for_update(no_key=True), id=team_id)
    check_limit(max_active)
    if team.max_active != max_active:
        before = {"max_active": team.max_active}
        team.max_active = max_active
        check_fields(team, ["max_active"])
        team.save(update_fields=["max_active"])
        slots.wake(timezone.now())
        change = events.done("team.change", team, before=before, after={"max_active": max_active})
        events.record(actor=actor, changes=[change])
    return team


@transaction.atomic
def set_membership(*, actor: Actor, team_id: UUID, user_id: UUID, role: str) -> Membership:
    """Give a person a role in a team, or another one than before."""
    team = access.get(actor, "team.manage", Team.objects.select_for_update(no_key=True), id=team_id)
    user = get_user_model().objects.filter(pk=user_id, is_active=True).first()
    if user is None:
        raise Invalid(user="There is no active account with this id.")
    membership = Membership.objects.filter(team=team, user_id=user_id).first()
    before = {"role": membership.role} if membership else None
    if membership is None:
        membership = Membership(team=team, user_id=user_id, role=role)
        insert(membership, exists=f"{user} is in team {team} already.")
    elif membership.role != role:
        _keep_an_owner(actor, membership)
        membership.role = role
        check_fields(membership, ["role"])
        membership.save(update_fields=["role"])
    else:
        return membership
    access.project(membership)
    change = events.done("membership.set", membership, before=before, after={"role": role})
    events.record(actor=actor, changes=[change])
    return membership


@transaction.atomic
def remove_membership(*, actor: Actor, membership_id: UUID) -> None:
    memberships = access.visible(actor, Membership.objects.select_related("team", "user"))
    membership = memberships.filter(pk=membership_id).first()
    team_id = membership.team_id if membership else membership_id
    access.get(actor, "team.manage", Team.objects.select_for_update(no_key=True), id=team_id)
    assert membership is not None  # otherwise no team was found either
    _keep_an_owner(actor, membership)
    change = events.done("membership.remove", membership, before={"role": membership.role})
    access.unproject(membership)
    membership.delete()
    events.record(actor=actor, changes=[change])


def _keep_an_owner(actor: Actor, membership: Membership) -> None:
    """The team's row is locked: two owners cannot both leave at once."""
    if actor.is_superuser or membership.role != Membership.Role.OWNER:
        return
    others = Membership.objects.filter(team=membership.team_id, role=Membership.Role.OWNER)
    if not others.exclude(pk=membership.pk).exists():
        raise Conflict(f"{membership.user} is the last owner of the team. Make another member owner first.")
