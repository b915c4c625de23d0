"""The one door for permission, and the only reader and writer of guardian's rows.

Memberships are the source of truth; `project` writes them into guardian's direct-foreign-key rows in
the same transaction. `require` decides about one object, `visible` filters a list in SQL. What is not
visible does not exist (404); what is visible but refused says the verb, the scope and whom to ask (403).
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from uuid import UUID

from django.contrib.auth.models import Permission
from django.db import models
from django.db.models import Exists, OuterRef, Q

from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound
from deployments.models import (
    Agent,
    Artifact,
    ArtifactUpload,
    ConfigSnapshot,
    Environment,
    JobFault,
    JoinToken,
    Membership,
    Region,
    Release,
    Rollout,
    Service,
    Target,
    Task,
    Team,
    TeamUserObjectPermission,
)

M = TypeVar("M", bound=models.Model)

ROLES: dict[str, tuple[str, ...]] = {
    Membership.Role.VIEWER: ("view_team",),
    Membership.Role.DEPLOYER: ("view_team", "deploy_team"),
    Membership.Role.OWNER: ("view_team", "deploy_team", "manage_team"),
}

VERBS: dict[str, str] = {
    "team.view": "view_team",
    "team.manage": "manage_team",
    "service.view": "view_team",
    "service.create": "manage_team",
    "service.change": "manage_team",
    "target.view": "view_team",
    "target.create": "manage_team",
    "target.change": "manage_team",
    "config.view": "view_team",
    "config.create": "deploy_team",
    "artifact.view": "view_team",
    "release.view": "view_team",
    "release.create": "deploy_team",
    "rollout.view": "view_team",
    "rollout.create": "deploy_team",
    "rollout.pause": "deploy_team",
    "rollout.resume": "deploy_team",
    "rollout.cancel": "deploy_team",
    "rollout.rollback": "deploy_team",
    "rollout.retry": "deploy_team",
    "rollout.skip": "deploy_team",
    "release.hold": "deploy_team",
    "agent.view": "view_team",
}
"""Verb -> permission on the object's team."""

ORGANISATION_VERBS = frozenset(
    {
        "team.create",
        "environment.create",
        "environment.change",
        "team.limit",
        "region.create",
        "agent.enrol",
        "agent.revoke",
        "audit.view",
        "fault.view",
        "fault.release",
    }
)
"""Verbs on what belongs to nobody in particular; administrators only."""

SIGNED_IN_VERBS = frozenset({"environment.view", "region.view", "artifact.upload"})
"""What every signed-in person and service account may do."""


def require(actor: Actor, verb: str, scope: models.Model | None = None) -> None:
    """Let `actor` do `verb` on `scope`, or raise NotFound (not visible) or NotAllowed (visible, refused)."""
    if actor.is_superuser or verb in SIGNED_IN_VERBS:
        return
    if verb in ORGANISATION_VERBS:
        raise NotAllowed(verb, "the organisation", "an administrator")
    if scope is None:
        raise LookupError(f"{verb} is about an object; none was given")
    held = _permissions(actor, scope)
    if "view_team" not in held:
        raise NotFound
    if VERBS[verb] not in held:
        owners = Membership.objects.filter(team__in=_teams(scope), role=Membership.Role.OWNER)
        names = ", ".join(str(owner.user) for owner in owners.select_related("user").order_by("id")[:3])
        raise NotAllowed(verb, _describe(scope), names or "an administrator")


def allowed(actor: Actor, verb: str, scope: models.Model | None = None) -> bool:
    """Whether `require` would let it pass: for buttons that should not be shown."""
    try:
        require(actor, verb, scope)
    except (NotFound, NotAllowed):
        return False
    return True


def allowed_among(actor: Actor, verbs: Iterable[str], scope: models.Model) -> frozenset[str]:
    """Those of `verbs`, all about teams' objects, that `require` would let pass on `scope`; one query."""
    held = frozenset(VERBS.values()) if actor.is_superuser else _permissions(actor, scope)
    return frozenset(verb for verb in verbs if VERBS[verb] in held and "view_team" in held)


def visible(actor: Actor, queryset: models.QuerySet[M]) -> models.QuerySet[M]:
    """Return `queryset` without what `actor` may not see: one SQL predicate, no loop."""
    if actor.is_superuser:
        return queryset
    return queryset.filter(PREDICATES[queryset.model](actor))


def get(actor: Actor, verb: str, queryset: models.QuerySet[M], **lookup: Any) -> M:
    """Fetch one object by `lookup` and require `verb` on it; missing and invisible are the same NotFound."""
    found = visible(actor, queryset).filter(**lookup).first()
    if found is None:
        raise NotFound
    require(actor, verb, found)
    return found


def project(membership: Membership) -> None:
    """Make guardian's rows of this person in this team equal to the membership's role."""
    unproject(membership)
    permissions = Permission.objects.filter(
        content_type__app_label="deployments", codename__in=ROLES[membership.role]
    )
    TeamUserObjectPermission.objects.bulk_create(
        TeamUserObjectPermission(
            permission=permission, user_id=membership.user_id, content_object=membership.team
        )
        for permission in permissions
    )


def unproject(membership: Membership) -> None:
    TeamUserObjectPermission.objects.filter(
        user_id=membership.user_id, content_object_id=membership.team_id
    ).delete()


def _viewable_teams(actor: Actor) -> list[UUID]:
    """Read first, by a query of its own: of a subquery the planner takes every team for an average one,
    and then sorts all that a large team has to show the newest of it."""
    rows = TeamUserObjectPermission.objects.filter(permission__codename="view_team")
    mine = rows.filter(user_id=actor.user_id) if actor.user_id else rows.none()
    return list(mine.values_list("content_object_id", flat=True))


def _mine(path: str) -> Callable[[Actor], Q]:
    return lambda actor: Q(**{f"{path}__in": _viewable_teams(actor)})


def _artifact(actor: Actor) -> Q:
    """An artifact is seen by who uploaded it and by the teams that released it."""
    released = Release.objects.filter(artifact=OuterRef("pk"), service__team__in=_viewable_teams(actor))
    return Q(Exists(_uploads(actor).filter(artifact=OuterRef("pk")))) | Q(Exists(released))


def _uploads(actor: Actor) -> models.QuerySet[ArtifactUpload]:
    uploads = ArtifactUpload.objects.all()
    return uploads.filter(user_id=actor.user_id) if actor.user_id else uploads.none()


def _agent(actor: Actor) -> Q:
    return Q(Exists(Target.objects.filter(agent=OuterRef("pk"), service__team__in=_viewable_teams(actor))))


PREDICATES: dict[type[models.Model], Callable[[Actor], Q]] = {
    Team: _mine("id"),
    Membership: _mine("team"),
    Service: _mine("team"),
    Target: _mine("service__team"),
    ConfigSnapshot: _mine("service__team"),
    Release: _mine("service__team"),
    Rollout: _mine("service__team"),
    Task: _mine("rollout__service__team"),
    Artifact: _artifact,
    Agent: _agent,
    Environment: lambda actor: Q(),
    Region: lambda actor: Q(),
    JoinToken: lambda actor: Q(pk__in=[]),
    JobFault: lambda actor: Q(pk__in=[]),
}


def _teams(scope: models.Model) -> list[UUID]:
    """The teams whose permission counts for `scope`; more than one only for shared things."""
    match scope:
        case Team():
            return [scope.id]
        case Membership() | Service():
            return [scope.team_id]
        case Target() | ConfigSnapshot() | Release() | Rollout():
            return [scope.service.team_id]
        case Task():
            return [scope.rollout.service.team_id]
        case Artifact():
            return list(scope.releases.values_list("service__team_id", flat=True).distinct())
        case Agent():
            return list(scope.targets.values_list("service__team_id", flat=True).distinct())
    raise LookupError(f"{type(scope).__name__} has no team")


def _permissions(actor: Actor, scope: models.Model) -> frozenset[str]:
    if actor.user_id is None:
        return frozenset()
    if isinstance(scope, Artifact) and _uploads(actor).filter(artifact=scope).exists():
        return frozenset({"view_team"})
    rows = TeamUserObjectPermission.objects.filter(user_id=actor.user_id, content_object__in=_teams(scope))
    return frozenset(rows.values_list("permission__codename", flat=True))


def _describe(scope: models.Model) -> str:
    return f"{scope._meta.verbose_name} {scope}"
