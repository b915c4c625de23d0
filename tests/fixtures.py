"""The actors, named for what they are, and a small world for them to act in."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import nacl.signing
import pytest
from django.utils import timezone

from deployments import access
from deployments.domain import canonical
from deployments.domain.actor import Actor, ActorKind
from deployments.models import (
    Agent,
    Artifact,
    ArtifactUpload,
    ConfigSnapshot,
    Environment,
    Membership,
    Region,
    Release,
    Service,
    Target,
    Team,
)
from portal.accounts.models import ApiToken, User

CONFIG: dict[str, Any] = {
    "process": {"command": ["python3", "app.py"]},
    "env": {"PORT": "${target.port}", "VERSION": "${version}"},
    "health": {"kind": "http", "port": "${target.port}", "path": "/health"},
}
PASSWORD = "correct horse battery"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Person(Actor):
    """An Actor, with the user whose rights count; `secret` is the token of a service account."""

    user: User
    secret: str = ""


def make_person(name: str, *, superuser: bool = False) -> Person:
    user = User(username=name, is_superuser=superuser, is_staff=superuser)
    user.set_password(PASSWORD)
    user.save()
    return Person(
        kind=ActorKind.USER,
        id=str(user.id),
        name=name,
        user_id=user.id,
        is_superuser=superuser,
        request_id=f"request-of-{name}",
        address="192.0.2.7",
        user=user,
    )


@dataclasses.dataclass(frozen=True)
class World:
    """Makes rows directly, without commands, so that a test's audit trail holds only what it did."""

    team: Team
    other_team: Team
    prod: Environment
    agent: Agent
    agent_key: nacl.signing.SigningKey

    def regions(self, names: Sequence[str] = ("eu", "us", "ap")) -> list[Region]:
        return [
            Region.objects.get_or_create(environment=self.prod, name=name, defaults={"position": position})[0]
            for position, name in enumerate(names)
        ]

    def service(
        self,
        name: str = "orders",
        *,
        team: Team | None = None,
        targets: int = 12,
        regions: Sequence[str] = ("eu", "us", "ap"),
        agent: Agent | None = None,
        with_agent: bool = True,
        strategy: Mapping[str, Any] | None = None,
    ) -> Service:
        """A service with `targets` targets, dealt out over `regions` of prod and served by `agent`."""
        service = Service.objects.create(team=team or self.team, name=name, strategy=dict(strategy or {}))
        places = self.regions(regions)
        Target.objects.bulk_create(
            Target(
                service=service,
                region=places[number % len(places)],
                name=f"{name}-{number + 1:02}",
                agent=(agent or self.agent) if with_agent else None,
                variables={"port": str(9001 + number)},
            )
            for number in range(targets)
        )
        return service

    def artifact(self, content: bytes = b"artifact", *, by: User | None = None) -> Artifact:
        """The row of an artifact; its bytes lie in the artifact store."""
        from deployments.artifacts import store

        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        store.put([content], digest=digest, max_bytes=len(content))
        defaults = {"size_bytes": len(content), "filename": "app.tar.gz", "uploaded_by": by}
        artifact = Artifact.objects.get_or_create(digest=digest, defaults=defaults)[0]
        if by is not None:
            ArtifactUpload.objects.get_or_create(artifact=artifact, user=by)
        return artifact

    def config(
        self,
        service: Service,
        base: Mapping[str, Any] | None = None,
        overlays: Mapping[str, Any] | None = None,
    ) -> ConfigSnapshot:
        body = {"base": dict(base or CONFIG), "overlays": dict(overlays or {})}
        digest = canonical.digest(body)
        known = ConfigSnapshot.objects.filter(service=service, digest=digest).first()
        return known or ConfigSnapshot.objects.create(
            service=service, number=service.configs.count() + 1, digest=digest, created_by="world", **body
        )

    def release(
        self,
        service: Service,
        version: str = "1.0",
        *,
        content: bytes | None = None,
        base: Mapping[str, Any] | None = None,
        overlays: Mapping[str, Any] | None = None,
    ) -> Release:
        """A release with an artifact of its own, or of the bytes `content`."""
        return Release.objects.create(
            service=service,
            version=version,
            artifact=self.artifact(content or f"{service.name} {version}".encode()),
            config=self.config(service, base, overlays),
            created_by="world",
            commit_sha=hashlib.sha1(version.encode()).hexdigest(),
            commit_message=f"Release {version}",
            branch="main",
            author="Ada",
        )

    def agent_named(self, name: str, key: nacl.signing.SigningKey | None = None) -> Agent:
        public = bytes((key or nacl.signing.SigningKey.generate()).verify_key)
        return Agent.objects.create(name=name, public_key=public, hostname="localhost")

    def member(self, person: Person, role: str, team: Team | None = None) -> Membership:
        membership = Membership.objects.create(team=team or self.team, user=person.user, role=role)
        access.project(membership)
        return membership


@pytest.fixture
def world(db: None) -> World:
    """Teams `shop` and `other`, environment `prod` and agent `agent-1`, seen a moment ago."""
    key = nacl.signing.SigningKey(b"test-agent-key-of-32-bytes------")
    return World(
        team=Team.objects.create(name="shop", title="Shop"),
        other_team=Team.objects.create(name="other"),
        prod=Environment.objects.create(name="prod", tier=Environment.Tier.PROD),
        agent=Agent.objects.create(
            name="agent-1",
            public_key=bytes(key.verify_key),
            hostname="localhost",
            last_seen_at=timezone.now(),
        ),
        agent_key=key,
    )


@pytest.fixture
def catalog(world: World) -> World:
    """The world with its service `orders`: 12 targets in 3 regions of prod."""
    world.service("orders")
    return world


@pytest.fixture
def orders(catalog: World) -> Service:
    return Service.objects.get(name="orders")


@pytest.fixture
def owner(world: World) -> Person:
    """Owner of team shop."""
    person = make_person("owner")
    world.member(person, Membership.Role.OWNER)
    return person


@pytest.fixture
def teammate(world: World) -> Person:
    """Deployer in team shop."""
    person = make_person("teammate")
    world.member(person, Membership.Role.DEPLOYER)
    return person


@pytest.fixture
def approver(world: World) -> Person:
    """A second owner of team shop."""
    person = make_person("approver")
    world.member(person, Membership.Role.OWNER)
    return person


@pytest.fixture
def viewer(world: World) -> Person:
    """Viewer in team shop."""
    person = make_person("viewer")
    world.member(person, Membership.Role.VIEWER)
    return person


@pytest.fixture
def outsider(world: World) -> Person:
    """Owner of another team: as powerful as can be, elsewhere."""
    person = make_person("outsider")
    world.member(person, Membership.Role.OWNER, world.other_team)
    return person


@pytest.fixture
def admin(world: World) -> Person:
    return make_person("admin", superuser=True)


@pytest.fixture
def auditor(world: World) -> Person:
    """Reads the audit log, which is an administrator's right as yet."""
    return make_person("auditor", superuser=True)


@pytest.fixture
def ci_token(world: World) -> Person:
    """A service account, deployer in team shop, that acts by an API token."""
    account = make_person("ci")
    User.objects.filter(pk=account.user.pk).update(kind=User.Kind.SERVICE)
    account.user.refresh_from_db()
    world.member(account, Membership.Role.DEPLOYER)
    secret = "slw_test-token-of-ci"
    token = ApiToken.objects.create(
        user=account.user,
        name="ci",
        digest=hashlib.sha256(secret.encode()).hexdigest(),
        expires_at=timezone.now() + timedelta(days=1),
    )
    return dataclasses.replace(account, kind=ActorKind.TOKEN, id=str(token.id), name="ci (ci)", secret=secret)


Login = Callable[[Person], Any]


@pytest.fixture
def login(client: Any) -> Login:
    """Logs a person in; returns the Django test client."""

    def _login(person: Person) -> Any:
        client.force_login(person.user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return _login
