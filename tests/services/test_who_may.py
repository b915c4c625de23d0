"""Every command of the catalog: who may, who may not, what they are told, and what is left behind."""

import dataclasses
from collections.abc import Callable
from typing import Any
from uuid import UUID

import nacl.signing
import pytest
from django.db import connection

from audit.models import Entry
from deployments.errors import NotAllowed, NotFound
from deployments.models import (
    Agent,
    Artifact,
    Hold,
    JobFault,
    Membership,
    Rollout,
    RolloutTarget,
    Service,
)
from deployments.services import agents, catalog, faults, holds, releases, retries
from portal.accounts import tokens
from portal.accounts.models import User
from tests.engine.driver import Driver
from tests.fixtures import CONFIG, Person, World, make_person

EVERYBODY = ("admin", "owner", "teammate", "viewer", "outsider")


@dataclasses.dataclass(frozen=True)
class Case:
    verb: str
    """As `access` knows it."""
    run: Callable[[World, Person], Any]
    may: tuple[str, ...]
    hidden_from: tuple[str, ...] = ("outsider",)
    records: str = ""
    """Verb in the audit log, where it is another."""
    prepare: Callable[[World], None] = lambda world: None

    @property
    def recorded(self) -> str:
        return self.records or self.verb


OWNERS = ("admin", "owner")
DEPLOYERS = ("admin", "owner", "teammate")
ADMINS = ("admin",)


def orders() -> Service:
    return Service.objects.get(name="orders")


def a_membership(world: World) -> Membership:
    return Membership.objects.get(team=world.team, user__username="viewer")


def prepare_release(world: World) -> None:
    """What the team's `teammate` uploaded, and a configuration."""
    world.artifact(b"bytes", by=User.objects.get(username="teammate"))
    world.config(orders())


def create_release(world: World, actor: Person) -> Any:
    return releases.create_release(
        actor=actor,
        service_id=orders().id,
        version="1.0",
        artifact_digest=Artifact.objects.get().digest,
        config_id=orders().configs.get().id,
    )


def prepare_failure(world: World) -> None:
    """A rollout that stands paused because a target failed."""
    driver = Driver(world, make_person("starter", superuser=True))
    rollout = driver.tick(driver.start(orders(), "1.0", on_failure="pause"))
    driver.answer(rollout)
    driver.answer(rollout, failing=["orders-01"])
    assert rollout.state == "paused"


def a_rollout() -> Rollout:
    return Rollout.objects.get()


def failed_target() -> UUID:
    return RolloutTarget.objects.get(state="failed").target_id


def a_release() -> UUID:
    return orders().releases.get().id


CASES = [
    Case("team.create", lambda w, a: catalog.create_team(actor=a, name="new"), may=ADMINS, hidden_from=()),
    Case(
        "team.manage",
        lambda w, a: catalog.set_membership(
            actor=a, team_id=w.team.id, user_id=a_membership(w).user_id, role="deployer"
        ),
        may=OWNERS,
        records="membership.set",
    ),
    Case(
        "team.manage",
        lambda w, a: catalog.remove_membership(actor=a, membership_id=a_membership(w).id),
        may=OWNERS,
        records="membership.remove",
    ),
    Case(
        "environment.create",
        lambda w, a: catalog.create_environment(actor=a, name="stage", tier="stage", regions=["eu"]),
        may=ADMINS,
        hidden_from=(),
    ),
    Case(
        "region.create",
        lambda w, a: catalog.create_region(actor=a, environment_id=w.prod.id, name="sa", position=9),
        may=ADMINS,
        hidden_from=(),
    ),
    Case(
        "service.create",
        lambda w, a: catalog.create_service(actor=a, team_id=w.team.id, name="bills"),
        may=OWNERS,
    ),
    Case(
        "service.change",
        lambda w, a: catalog.change_service(actor=a, service_id=orders().id, description="Takes orders"),
        may=OWNERS,
    ),
    Case(
        "target.create",
        lambda w, a: catalog.create_target(
            actor=a, service_id=orders().id, region_id=w.regions()[0].id, name="orders-99"
        ),
        may=OWNERS,
    ),
    Case(
        "target.change",
        lambda w, a: catalog.change_target(
            actor=a, target_id=orders().targets.get(name="orders-01").id, variables={"port": 1}
        ),
        may=OWNERS,
    ),
    Case(
        "agent.enrol",
        lambda w, a: agents.create_join_token(actor=a, agent_name="host-7"),
        may=ADMINS,
        hidden_from=(),
        records="join_token.create",
    ),
    Case(
        "agent.revoke",
        lambda w, a: agents.revoke_agent(actor=a, agent_id=w.agent.id, reason="Stolen"),
        may=ADMINS,
    ),
    Case(
        "config.create",
        lambda w, a: releases.create_config(actor=a, service_id=orders().id, base=CONFIG),
        may=DEPLOYERS,
    ),
    Case("release.create", create_release, may=DEPLOYERS, prepare=prepare_release),
    Case(
        "fault.release",
        lambda w, a: faults.release_fault(
            actor=a, fault_id=JobFault.objects.values_list("id", flat=True).first() or 0, reason="Mended"
        ),
        may=ADMINS,
        hidden_from=(),
        prepare=lambda w: JobFault.objects.create(function="some.job", subject="x", error="x", traceback=""),
    ),
]

CASES += [
    Case(
        "rollout.retry",
        lambda w, a: retries.retry_targets(actor=a, rollout_id=a_rollout().id, reason="Mended"),
        may=DEPLOYERS,
        prepare=prepare_failure,
    ),
    Case(
        "rollout.skip",
        lambda w, a: retries.skip_targets(
            actor=a, rollout_id=a_rollout().id, targets=[failed_target()], reason="Broken"
        ),
        may=DEPLOYERS,
        records="target.skipped",
        prepare=prepare_failure,
    ),
    Case(
        "release.hold",
        lambda w, a: holds.hold_release(actor=a, release_id=a_release(), reason="It loses orders"),
        may=DEPLOYERS,
        prepare=lambda w: w.release(orders(), "1.0") and None,
    ),
    Case(
        "release.hold",
        lambda w, a: holds.lift_hold(actor=a, release_id=a_release(), reason="It was the network"),
        may=DEPLOYERS,
        records="release.lift",
        prepare=lambda w: Hold.objects.create(release=w.release(orders(), "1.0"), reason="x") and None,
    ),
    Case(
        "environment.change",
        lambda w, a: catalog.change_environment(actor=a, environment_id=w.prod.id, max_active=2),
        may=ADMINS,
        hidden_from=(),
    ),
    Case(
        "team.limit",
        lambda w, a: catalog.change_team(actor=a, team_id=w.team.id, max_active=2),
        may=ADMINS,
        hidden_from=(),
        records="team.change",
    ),
]


@pytest.fixture
def people(
    owner: Person, teammate: Person, viewer: Person, outsider: Person, admin: Person
) -> dict[str, Person]:
    return {p.name: p for p in (owner, teammate, viewer, outsider, admin)}


def named(cases: list[Case], who: Callable[[Case], tuple[str, ...]]) -> list[Any]:
    return [pytest.param(case, name, id=f"{case.recorded}-{name}") for case in cases for name in who(case)]


@pytest.mark.parametrize(("case", "name"), named(CASES, lambda case: case.may))
def test_who_may_does_and_is_named_in_the_audit_log(case, name, catalog, people):
    actor = people[name]
    case.prepare(catalog)
    case.run(catalog, actor)
    entry = Entry.objects.filter(verb=case.recorded).latest("id")
    assert (entry.actor_kind, entry.actor_id, entry.actor_name) == ("user", actor.id, name)
    assert (entry.request_id, entry.address) == (f"request-of-{name}", "192.0.2.7")
    assert entry.object_id
    assert entry.object_name


@pytest.mark.parametrize(("case", "name"), named(CASES, lambda case: case.hidden_from))
def test_an_outsider_learns_nothing_and_changes_nothing(case, name, catalog, people):
    case.prepare(catalog)
    before = contents()
    with pytest.raises(NotFound) as refused:
        case.run(catalog, people[name])
    assert refused.value.message == NotFound().message
    assert contents() == before


@pytest.mark.parametrize(
    ("case", "name"),
    named(CASES, lambda case: tuple(n for n in EVERYBODY if n not in case.may + case.hidden_from)),
)
def test_who_may_not_is_told_the_verb_the_scope_and_whom_to_ask(case, name, catalog, people):
    case.prepare(catalog)
    before = contents()
    with pytest.raises(NotAllowed) as refused:
        case.run(catalog, people[name])
    assert case.verb in refused.value.message
    asked = "owner" if "owner" in case.may else "an administrator"
    assert f"Ask {asked}" in refused.value.message
    assert contents() == before


def test_a_person_makes_tokens_for_themselves_and_only_an_administrator_for_others(people):
    owner = people["owner"]
    token, secret = tokens.create_api_token(actor=owner, user_id=owner.user_id, name="laptop")
    assert secret.startswith("slw_")
    assert secret not in str(Entry.objects.latest("id").after)
    assert tokens.find_api_token(secret) == token
    with pytest.raises(NotFound):
        tokens.create_api_token(actor=people["teammate"], user_id=owner.user_id, name="x")
    with pytest.raises(NotFound):
        tokens.revoke_api_token(actor=people["teammate"], token_id=token.id)
    tokens.revoke_api_token(actor=people["admin"], token_id=token.id)
    assert Entry.objects.latest("id").verb == "api_token.revoke"


def test_everybody_may_upload_an_artifact(catalog, people):
    for name, actor in people.items():
        artifact = releases.upload_artifact(actor=actor, chunks=[name.encode()])
        assert artifact.uploaded_by == actor.user
        assert Entry.objects.latest("id").verb == "artifact.upload"


def test_an_agent_lets_itself_in_with_a_token_and_is_named_in_the_audit_log(catalog, people):
    _token, secret = agents.create_join_token(actor=people["admin"], agent_name="host-7")
    key = bytes(nacl.signing.SigningKey.generate().verify_key)
    agent = agents.enrol_agent(join_token=secret, public_key=key, hostname="h", address="198.51.100.4")
    entry = Entry.objects.latest("id")
    assert (entry.actor_kind, entry.actor_id, entry.verb) == ("agent", str(agent.id), "agent.enrol")
    assert entry.address == "198.51.100.4"
    assert secret not in str(entry.after)
    assert Agent.objects.get(name="host-7").public_key == key


def contents() -> dict[str, str]:
    """A digest of every table."""
    tables = [t for t in connection.introspection.table_names() if t.startswith(("deployments_", "audit_"))]
    found: dict[str, str] = {}
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t")
            found[table] = cursor.fetchone()[0]
    return found
