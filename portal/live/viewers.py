"""Who watches, and whether they still may: rights and sessions end while sockets stay open."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog
from django.contrib.auth import HASH_SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db import DatabaseError, InterfaceError
from django.db.models import CharField, F, QuerySet, Value
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from deployments import access
from deployments.domain.actor import Actor, ActorKind
from deployments.models import Rollout, Target, Team
from portal.live.database import Database
from portal.live.outlet import NOT_ALLOWED, NOT_SIGNED_IN, Outlet

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 5.0
AT_ONCE = 100
"""People whose rights are asked for in one statement."""


class Viewer(msgspec.Struct, frozen=True):
    actor: Actor
    session_key: str
    session_hash: str
    """Changes with the password: who changes it is signed out everywhere."""


class OpenSocket:
    """A browser's socket and what it looks at: a rollout, a target, or (None) an overview."""

    __slots__ = ("on_teams", "outlet", "subject", "viewer")

    def __init__(
        self,
        viewer: Viewer,
        outlet: Outlet,
        subject: Rollout | Target | None,
        on_teams: Callable[[frozenset[UUID] | None], None] | None = None,
    ) -> None:
        self.viewer = viewer
        self.outlet = outlet
        self.subject = (type(subject), subject.pk) if subject is not None else None
        self.on_teams = on_teams
        """Called with the teams that the viewer sees now, where the socket shows all that is visible."""


class Standing(msgspec.Struct, frozen=True):
    """What a number of viewers may do now, read in a few statements for all of them."""

    sessions: frozenset[str]
    people: dict[UUID, tuple[bool, str]]
    """Active people: whether superuser, and the session hash that is valid now."""
    visible: frozenset[tuple[UUID, UUID]]
    """(user id, id of a rollout, target or team that they see)."""


def viewer_of(scope: dict[str, Any]) -> Viewer | None:
    """Who opened the socket, from Channels' authenticated scope; None for nobody."""
    user, session = scope["user"], scope["session"]
    if not user.is_authenticated or not user.is_active:
        return None
    address = (scope.get("client") or ("",))[0]
    actor = Actor(
        kind=ActorKind.USER,
        id=str(user.pk),
        name=user.username,
        user_id=user.pk,
        is_superuser=user.is_superuser,
        address=address,
    )
    return Viewer(actor, session.session_key or "", session.get(HASH_SESSION_KEY, ""))


def teams_of(actor: Actor) -> frozenset[UUID] | None:
    """The teams that `actor` sees; None for all."""
    if actor.is_superuser:
        return None
    return frozenset(access.visible(actor, Team.objects.all()).values_list("id", flat=True))


def standing(viewers: Collection[Viewer], rollouts: Collection[UUID], targets: Collection[UUID]) -> Standing:
    """Read anew who may see what; the number of statements grows by one for each hundred people."""
    sessions = Session.objects.filter(
        session_key__in={viewer.session_key for viewer in viewers}, expire_date__gt=timezone.now()
    )
    users = get_user_model().objects.filter(
        pk__in={viewer.actor.user_id for viewer in viewers}, is_active=True
    )
    people = {user.pk: (user.is_superuser, user.get_session_auth_hash()) for user in users}
    actors = [
        Actor(kind=ActorKind.USER, id=str(user_id), name="", user_id=user_id)
        for user_id, (is_superuser, _) in people.items()
        if not is_superuser
    ]
    visible: set[tuple[UUID, UUID]] = set()
    for start in range(0, len(actors), AT_ONCE):
        visible.update(_visible(actors[start : start + AT_ONCE], rollouts, targets))
    return Standing(frozenset(sessions.values_list("session_key", flat=True)), people, frozenset(visible))


def _visible(
    actors: Sequence[Actor], rollouts: Collection[UUID], targets: Collection[UUID]
) -> set[tuple[UUID, UUID]]:
    parts: list[QuerySet[Any, Any]] = []
    for actor in actors:
        for queryset in (
            Rollout.objects.filter(pk__in=rollouts),
            Target.objects.filter(pk__in=targets),
            Team.objects.all(),
        ):
            # As text: in a union PostgreSQL would otherwise guess the type of the constant.
            seen = access.visible(actor, queryset).order_by()
            parts.append(
                seen.annotate(
                    who=Value(str(actor.user_id), CharField()), what=Cast(F("pk"), CharField())
                ).values_list("who", "what")
            )
    found = parts[0].union(*parts[1:], all=True)
    return {(UUID(who), UUID(what)) for who, what in found}


class Guard:
    """Looks every few seconds whether those who watch still may, and closes the sockets of those who not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sockets: set[OpenSocket] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.sockets:
                try:
                    await self.check()
                except (DatabaseError, InterfaceError) as error:
                    logger.warning("live.recheck_failed", error=str(error))

    async def check(self) -> None:
        sockets = list(self.sockets)
        subjects: dict[type, set[UUID]] = {Rollout: set(), Target: set()}
        for socket in sockets:
            if socket.subject is not None:
                kind, subject_id = socket.subject
                subjects[kind].add(subject_id)
        now = await self._database.run(
            standing, {socket.viewer for socket in sockets}, subjects[Rollout], subjects[Target]
        )
        teams: dict[UUID, set[UUID]] = {}
        for user_id, seen_id in now.visible:
            teams.setdefault(user_id, set()).add(seen_id)
        for socket in sockets:
            if code := _verdict(socket, now):
                socket.outlet.close(code)
            elif socket.on_teams is not None:
                who = socket.viewer.actor.user_id
                assert who is not None
                everything = now.people[who][0]
                socket.on_teams(None if everything else frozenset(teams.get(who, ())))


def _verdict(socket: OpenSocket, now: Standing) -> int:
    """The code to close the socket with; 0: it may stay open."""
    viewer = socket.viewer
    user_id = viewer.actor.user_id
    person = now.people.get(user_id) if user_id is not None else None
    if person is None or viewer.session_key not in now.sessions:
        return NOT_SIGNED_IN
    is_superuser, session_hash = person
    if not constant_time_compare(viewer.session_hash, session_hash):
        return NOT_SIGNED_IN
    if socket.subject is None or is_superuser or (user_id, socket.subject[1]) in now.visible:
        return 0
    return NOT_ALLOWED
