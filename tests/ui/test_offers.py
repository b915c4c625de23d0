"""What a rollout's page offers is what the commands take."""

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments.errors import MoveNotAllowed, ReleaseOnHold
from deployments.models import Agent, Rollout, Service, Target
from deployments.reads import choices, rollouts
from deployments.services.holds import hold_release
from deployments.services.retries import retry_targets, skip_targets
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout
from tests.engine.driver import Driver, pass_time
from tests.fixtures import Person, World


def offered(actor: Person, rollout: Rollout) -> list[str]:
    rollout.refresh_from_db()
    return rollouts.actions(actor, rollout, rollouts.count_targets([rollout.id])[rollout.id])


def names(found: choices.Choosable) -> list[str]:
    return sorted(row.target.name for row in found.rows)


@pytest.fixture
def waiting_for_silent(driver: Driver, orders: Service, stable: Rollout, world: World) -> Rollout:
    """1.1 is healthy everywhere, and cannot end: nobody hears of the agent of all targets but orders-01."""
    other = world.agent_named("other")
    Target.objects.filter(service=orders).exclude(name="orders-01").update(agent=other)
    rollout = driver.start(orders, "1.1", batch="100%", bake_seconds=20)
    driver.tick(rollout)
    for _ in range(2):
        driver.answer(rollout)
    driver.silent = True
    pass_time(30)
    Agent.objects.update(last_seen_at=timezone.now())
    Agent.objects.filter(pk=other.pk).update(last_seen_at=timezone.now() - timedelta(minutes=5))
    driver.tick(rollout)
    assert set(driver.states(rollout).values()) == {"healthy"}
    assert rollout.waiting_on is not None
    assert "skip" in rollout.waiting_on["unblock"]
    return rollout


def test_who_waits_for_silent_agents_of_healthy_targets_is_offered_to_skip_them(
    owner: Person, driver: Driver, waiting_for_silent: Rollout
) -> None:
    assert "skip" in offered(owner, waiting_for_silent)
    found = choices.skippable(waiting_for_silent)
    assert names(found) == [f"orders-{number:02}" for number in range(2, 13)]
    skip_targets(
        actor=owner,
        rollout_id=waiting_for_silent.id,
        targets=[row.target_id for row in found.rows],
        reason="Power cut",
    )
    assert driver.tick(waiting_for_silent).state == "succeeded"


def test_while_all_are_heard_of_what_is_done_is_not_offered(
    owner: Person, waiting_for_silent: Rollout
) -> None:
    Agent.objects.update(last_seen_at=timezone.now())
    assert "skip" not in offered(owner, waiting_for_silent)
    assert names(choices.skippable(waiting_for_silent)) == []


def test_an_agent_that_was_never_seen_and_one_that_is_missing_are_silent(
    owner: Person, waiting_for_silent: Rollout
) -> None:
    Agent.objects.update(last_seen_at=timezone.now())
    nobody = Agent.objects.create(name="new", public_key=bytes(range(32)))
    Target.objects.filter(name="orders-03").update(agent=nobody)
    Target.objects.filter(name="orders-04").update(agent=None)
    assert names(choices.skippable(waiting_for_silent)) == ["orders-03", "orders-04"]


def test_in_quarantine_only_the_end_is_offered(
    owner: Person, driver: Driver, orders: Service, stable: Rollout
) -> None:
    rollout = driver.tick(driver.start(orders, "1.1"))
    assert {"pause", "rollback", "skip", "cancel"} <= set(offered(owner, rollout))
    Rollout.objects.filter(pk=rollout.pk).update(quarantined_at=timezone.now())
    assert offered(owner, rollout) == ["cancel"]


class TestAWayBack:
    def test_is_not_promised_where_another_rollout_stands(
        self, owner: Person, driver: Driver, orders: Service, stable: Rollout
    ) -> None:
        left = driver.deployed(orders, "1.1")
        assert choices.way_back_of(left).is_possible
        assert "rollback" in offered(owner, left)
        standing = driver.deployed(orders, "1.2")
        back = choices.way_back_of(left)
        with pytest.raises(MoveNotAllowed, match="came with another rollout") as refused:
            roll_back_rollout(actor=owner, rollout_id=left.id, reason="Errors")
        assert not back.is_possible
        assert back.why == refused.value.message
        assert str(standing) in back.why
        assert "rollback" not in offered(owner, left)

    def test_is_not_promised_where_no_target_runs_the_release_any_more(
        self, owner: Person, driver: Driver, orders: Service, stable: Rollout
    ) -> None:
        left = driver.deployed(orders, "1.1")
        Target.objects.filter(service=orders).update(release=stable.release)
        with pytest.raises(MoveNotAllowed, match="No target runs") as refused:
            roll_back_rollout(actor=owner, rollout_id=left.id, reason="Errors")
        assert choices.way_back_of(left).why == refused.value.message
        assert "rollback" not in offered(owner, left)


def test_a_release_on_hold_is_not_offered_to_be_tried_again(
    owner: Person, driver: Driver, orders: Service, stable: Rollout
) -> None:
    rollout = driver.tick(driver.start(orders, "1.1"))
    cancel_rollout(actor=owner, rollout_id=rollout.id, reason="Later")
    assert "retry" in offered(owner, rollout)
    hold_release(actor=owner, release_id=rollout.release_id, reason="It loses orders")
    assert "retry" not in offered(owner, rollout)
    with pytest.raises(ReleaseOnHold):
        retry_targets(actor=owner, rollout_id=rollout.id, reason="Again")
