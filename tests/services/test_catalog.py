import threading

import pytest
from django.db import connection

from audit.models import Entry
from deployments import access
from deployments.errors import AlreadyExists, Conflict, Invalid, NotFound, RolloutActive, StaleVersion
from deployments.models import Batch, Membership, Rollout, RolloutTarget, Service, Wave
from deployments.services import catalog as commands
from tests.fixtures import make_person


def audited() -> int:
    return Entry.objects.count()


class TestTeams:
    def test_a_name_is_taken_once(self, admin, world):
        before = audited()
        with pytest.raises(AlreadyExists, match="There is a team “shop” already"):
            commands.create_team(actor=admin, name="shop")
        assert audited() == before

    @pytest.mark.parametrize("name", ["", "Shop", "a b", "-shop", "x" * 64, "shop\0"])
    def test_a_name_is_a_short_word(self, admin, world, name):
        with pytest.raises(Invalid) as refused:
            commands.create_team(actor=admin, name=name)
        assert "name" in refused.value.extra["errors"]

    def test_a_role_decides_at_once_what_its_holder_may_do(self, owner, world):
        newcomer = make_person("newcomer")
        assert not access.allowed(newcomer, "team.view", world.team)
        membership = commands.set_membership(
            actor=owner, team_id=world.team.id, user_id=newcomer.user.id, role="deployer"
        )
        assert access.allowed(newcomer, "rollout.create", world.service("orders"))
        commands.set_membership(actor=owner, team_id=world.team.id, user_id=newcomer.user.id, role="viewer")
        assert not access.allowed(newcomer, "rollout.create", Service.objects.get())
        assert access.allowed(newcomer, "team.view", world.team)
        commands.remove_membership(actor=owner, membership_id=membership.id)
        assert not access.allowed(newcomer, "team.view", world.team)
        verbs = list(Entry.objects.order_by("id").values_list("verb", flat=True))
        assert verbs == ["membership.set", "membership.set", "membership.remove"]

    def test_the_same_role_again_changes_nothing(self, owner, teammate, world):
        commands.set_membership(actor=owner, team_id=world.team.id, user_id=teammate.user.id, role="deployer")
        assert audited() == 0

    def test_the_last_owner_stays_unless_an_administrator_says_otherwise(self, owner, admin, world):
        mine = Membership.objects.get(user=owner.user)
        with pytest.raises(Conflict, match="last owner"):
            commands.remove_membership(actor=owner, membership_id=mine.id)
        with pytest.raises(Conflict, match="last owner"):
            commands.set_membership(actor=owner, team_id=world.team.id, user_id=owner.user.id, role="viewer")
        commands.remove_membership(actor=admin, membership_id=mine.id)
        assert not Membership.objects.filter(user=owner.user).exists()

    def test_an_unknown_role_or_person_is_refused(self, owner, teammate, world):
        with pytest.raises(Invalid, match="role"):
            commands.set_membership(actor=owner, team_id=world.team.id, user_id=teammate.user.id, role="king")
        with pytest.raises(Invalid, match="no active account"):
            commands.set_membership(actor=owner, team_id=world.team.id, user_id=world.team.id, role="viewer")


class TestEnvironments:
    def test_regions_keep_the_order_in_which_they_are_given(self, admin, world):
        stage = commands.create_environment(actor=admin, name="stage", tier="stage", regions=["us", "eu"])
        assert [region.name for region in stage.regions.all()] == ["us", "eu"]
        assert audited() == 3

    def test_a_region_that_cannot_be_made_takes_the_environment_with_it(self, admin, world):
        with pytest.raises(AlreadyExists, match="has a region “eu” already"):
            commands.create_environment(actor=admin, name="stage", tier="stage", regions=["eu", "eu"])
        assert not type(world.prod).objects.filter(name="stage").exists()
        assert audited() == 0

    def test_an_unknown_tier_is_refused(self, admin, world):
        with pytest.raises(Invalid, match="tier"):
            commands.create_environment(actor=admin, name="stage", tier="moon")


class TestServices:
    def test_a_name_counts_for_all_teams(self, outsider, catalog):
        with pytest.raises(AlreadyExists, match="a name counts for all teams"):
            commands.create_service(actor=outsider, team_id=catalog.other_team.id, name="orders")

    @pytest.mark.parametrize(
        ("strategy", "message"),
        [
            ({"name": "teleport"}, "'teleport' is not known. Known: rolling"),
            ({"name": "rolling", "bach": 3}, "bach"),
            ("rolling", "must be a JSON object"),
        ],
    )
    def test_a_strategy_that_cannot_be_read_is_refused(self, owner, world, strategy, message):
        with pytest.raises(Invalid, match=message) as refused:
            commands.create_service(actor=owner, team_id=world.team.id, name="bills", strategy=strategy)
        assert "strategy" in refused.value.extra["errors"]
        assert not Service.objects.exists()

    def test_a_change_counts_and_says_what_was_before(self, owner, orders):
        changed = commands.change_service(
            actor=owner, service_id=orders.id, if_version=1, description="New", strategy={"batch": 2}
        )
        assert changed.version == 2
        entry = Entry.objects.get()
        assert entry.before == {"description": "", "strategy": {}}
        assert entry.after == {"description": "New", "strategy": {"batch": 2}}

    def test_no_change_counts_for_nothing(self, owner, orders):
        assert commands.change_service(actor=owner, service_id=orders.id, description="").version == 1
        assert audited() == 0

    def test_who_read_an_older_version_has_to_read_again(self, owner, orders):
        commands.change_service(actor=owner, service_id=orders.id, description="First")
        with pytest.raises(StaleVersion, match="is at version 2"):
            commands.change_service(actor=owner, service_id=orders.id, if_version=1, description="Second")
        orders.refresh_from_db()
        assert (orders.description, orders.version) == ("First", 2)

    def test_what_names_a_service_cannot_be_changed(self, owner, orders):
        with pytest.raises(Invalid, match="name: cannot be changed"):
            commands.change_service(actor=owner, service_id=orders.id, name="bills")


class TestTargets:
    def test_a_name_is_taken_once_in_a_region(self, owner, catalog, orders):
        target = orders.targets.select_related("region")[0]
        with pytest.raises(AlreadyExists, match=f"has a target “{target.name}” in prod/"):
            commands.create_target(
                actor=owner, service_id=orders.id, region_id=target.region_id, name=target.name
            )

    def test_an_agent_of_another_team_cannot_be_used(self, owner, catalog, orders):
        foreign = catalog.agent_named("foreign")
        catalog.service("bills", team=catalog.other_team, targets=1, agent=foreign)
        with pytest.raises(Invalid, match="join token"):
            commands.change_target(actor=owner, target_id=orders.targets.first().id, agent_id=foreign.id)

    def test_a_revoked_agent_cannot_be_used(self, admin, orders, catalog):
        revoked = catalog.agent_named("gone")
        type(revoked).objects.filter(pk=revoked.pk).update(revoked_at="2026-01-01T00:00Z")
        with pytest.raises(Invalid, match="revoked"):
            commands.change_target(actor=admin, target_id=orders.targets.first().id, agent_id=revoked.id)

    @pytest.mark.parametrize(
        "variables",
        [{"a b": "1"}, {"a": ["1"]}, {"a": True}, {"a": 1.5}, {"a": "x" * 1001}, {"a": "\0"}, [], {"": "1"}],
    )
    def test_variables_are_flat_strings(self, owner, orders, variables):
        with pytest.raises(Invalid, match="variables"):
            commands.change_target(actor=owner, target_id=orders.targets.first().id, variables=variables)

    def test_a_number_becomes_a_string_and_none_takes_the_agent_away(self, owner, orders):
        target = commands.change_target(
            actor=owner, target_id=orders.targets.first().id, agent_id=None, variables={"port": 1}
        )
        target.refresh_from_db()
        assert (target.variables, target.agent) == ({"port": "1"}, None)

    def test_a_target_stays_as_it_is_while_a_rollout_moves_it(self, owner, catalog, orders):
        target = orders.targets.first()
        rollout = Rollout.objects.create(
            service=orders,
            environment=catalog.prod,
            release=catalog.release(orders),
            requested_by="owner",
            state="running",
        )
        wave = Wave.objects.create(rollout=rollout, position=0, name="all")
        batch = Batch.objects.create(rollout=rollout, wave=wave, position=0)
        RolloutTarget.objects.create(rollout=rollout, batch=batch, target=target, position=0)
        with pytest.raises(RolloutActive, match="moves"):
            commands.change_target(actor=owner, target_id=target.id, variables={"port": "1"})

    def test_an_unknown_region_is_refused(self, owner, orders):
        with pytest.raises(Invalid, match="region"):
            commands.create_target(actor=owner, service_id=orders.id, region_id=orders.id, name="x")
        with pytest.raises(NotFound):
            commands.create_target(actor=owner, service_id=orders.team_id, region_id=orders.id, name="x")


@pytest.mark.django_db(transaction=True)
def test_of_two_who_ask_at_once_one_gets_the_name(admin, world):
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def ask() -> None:
        try:
            barrier.wait(10)
            commands.create_team(actor=admin, name="twins")
            outcomes.append("made")
        except AlreadyExists:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["made", "refused"]
