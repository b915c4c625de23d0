"""What a rollout's page offers is what the commands take."""

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments.models import Agent, Rollout, Service, Target
from deployments.reads import choices, rollouts
from deployments.services.retries import skip_targets
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
