"""The queue in the database: who starts, who waits and why, and that nobody is forgotten."""

import dataclasses
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from deployments.domain.states import RolloutState
from deployments.engine import sweep
from deployments.engine.planner import QUEUE_CHECK_SECONDS
from deployments.engine.tick import tick
from deployments.errors import QueueFull, RolloutActive
from deployments.models import Environment, QueuedJob, Rollout, Service, Team
from deployments.services.rollouts import cancel_rollout, start_rollout
from tests.engine.driver import Driver
from tests.fixtures import Person, World


@pytest.fixture
def carts(catalog: World) -> Service:
    return catalog.service("carts", targets=2)


def limit(world: World, number: int) -> None:
    Environment.objects.filter(id=world.prod.id).update(max_active=number)


def woken() -> set[str]:
    """Ids of the rollouts whose wake-ups wait; they are taken out."""
    jobs = QueuedJob.objects.filter(coalesce_key__startswith="tick:")
    keys = [str(key).removeprefix("tick:") for key in jobs.values_list("coalesce_key", flat=True)]
    jobs.delete()
    return set(keys)


def begin(driver: Driver, service: Service, version: str, **options: Any) -> Rollout:
    release = service.releases.filter(version=version).first() or driver.world.release(service, version)
    return start_rollout(
        actor=driver.actor,
        service_id=service.id,
        environment_id=driver.world.prod.id,
        release_id=release.id,
        **options,
    )


def test_beyond_the_limit_of_the_environment_it_waits_and_says_where(
    driver: Driver, orders: Service, carts: Service, world: World
) -> None:
    limit(world, 1)
    first = driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    assert (first.state, second.state) == ("running", "queued")
    assert second.waiting_on["kind"] == "queue"
    assert "Number 1 of 1 in the queue" in second.waiting_on["sentence"]
    assert "1 of at most 1 rollouts move there" in second.waiting_on["sentence"]
    assert second.waiting_on["unblock"] == ["cancel"]
    assert second.next_check_at is not None


def test_the_end_of_one_wakes_the_next(driver: Driver, orders: Service, carts: Service, world: World) -> None:
    limit(world, 1)
    first = driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    woken()
    driver.finish(first)
    assert str(second.id) in woken()
    assert driver.finish(second).state == RolloutState.SUCCEEDED


def test_one_that_nobody_woke_looks_again_by_itself(
    driver: Driver, orders: Service, carts: Service, world: World
) -> None:
    limit(world, 1)
    first = driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    driver.finish(first)
    woken()
    driver.later(first, 6)
    assert second.id in sweep.due()


def test_one_that_starts_wakes_who_may_start_next(driver: Driver, world: World) -> None:
    limit(world, 1)
    names = ("a", "b", "c", "d")
    started = [driver.tick(begin(driver, world.service(name, targets=1), "1.0")) for name in names]
    limit(world, 3)
    woken()
    driver.tick(started[1])
    assert woken() == {str(started[2].id)}


def test_the_more_go_before_it_the_later_it_looks_again(driver: Driver, world: World) -> None:
    limit(world, 1)
    names = ("a", "b", "c")
    started = [driver.tick(begin(driver, world.service(name, targets=1), "1.0")) for name in names]
    _, next_one, last = (rollout.next_check_at for rollout in started)
    assert next_one is not None
    assert last is not None
    assert last - next_one >= timedelta(seconds=QUEUE_CHECK_SECONDS)


def test_a_second_rollout_of_a_service_queues_up_when_asked_and_starts_from_what_is_stable_then(
    driver: Driver, orders: Service
) -> None:
    first = driver.tick(begin(driver, orders, "1.0"))
    with pytest.raises(RolloutActive):
        begin(driver, orders, "1.1")
    second = driver.tick(begin(driver, orders, "1.1", if_busy="queue"))
    assert second.state == RolloutState.QUEUED
    assert "a rollout of the same service moves there (1.0, running)" in second.waiting_on["sentence"]
    assert second.targets.filter(previous_release__isnull=False).count() == 0
    driver.finish(first)
    driver.tick(second)
    assert {row.previous_release.version for row in second.targets.all()} == {"1.0"}
    assert driver.finish(second).state == RolloutState.SUCCEEDED


def test_a_newer_one_supersedes_those_that_wait_and_not_the_one_that_moves(
    driver: Driver, orders: Service
) -> None:
    first = driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, orders, "1.1", if_busy="queue"))
    third = driver.tick(begin(driver, orders, "1.2", if_busy="supersede"))
    for rollout in (first, second):
        rollout.refresh_from_db()
    assert (first.state, second.state, third.state) == ("running", "superseded", "queued")
    assert second.outcome == "1.2 came in its place. Nothing was changed."
    assert second.waiting_on is None


def test_a_hotfix_starts_before_what_waited_longer(
    driver: Driver, orders: Service, carts: Service, world: World
) -> None:
    limit(world, 1)
    users = world.service("users", targets=1)
    first = driver.tick(begin(driver, orders, "1.0"))
    normal = driver.tick(begin(driver, carts, "1.0"))
    hotfix = driver.tick(begin(driver, users, "1.0", priority=Rollout.Priority.HOTFIX))
    assert "Number 1 of 2" in hotfix.waiting_on["sentence"]
    assert "Number 2 of 2" in driver.tick(normal).waiting_on["sentence"]
    driver.finish(first)
    assert driver.tick(normal).state == RolloutState.QUEUED, "it was asked first, and lets the hotfix go"
    assert driver.tick(hotfix).state == RolloutState.RUNNING


def test_a_team_has_a_limit_of_its_own(driver: Driver, orders: Service, carts: Service) -> None:
    Team.objects.filter(name="shop").update(max_active=1)
    driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    assert "1 of at most 1 rollouts of the team move" in second.waiting_on["sentence"]


def test_an_estimate_comes_from_what_rollouts_took_there(
    driver: Driver, orders: Service, carts: Service, world: World
) -> None:
    for version in ("0.8", "0.9"):
        done = driver.deployed(orders, version)
        Rollout.objects.filter(id=done.id).update(
            started_at=done.created_at, finished_at=done.created_at + timedelta(minutes=10)
        )
    limit(world, 1)
    driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    assert "It may start about" in second.waiting_on["sentence"]


def test_a_cancelled_one_leaves_the_queue(
    driver: Driver, orders: Service, carts: Service, world: World, owner: Person
) -> None:
    limit(world, 1)
    driver.tick(begin(driver, orders, "1.0"))
    second = driver.tick(begin(driver, carts, "1.0"))
    cancel_rollout(actor=owner, rollout_id=second.id, reason="not today")
    second.refresh_from_db()
    assert second.state == RolloutState.CANCELLED
    assert second.outcome.endswith("Nothing was changed.")


def test_a_full_queue_refuses_and_says_so(
    driver: Driver, orders: Service, carts: Service, settings: Any
) -> None:
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, max_queued_rollouts=1)
    begin(driver, orders, "1.0")
    with pytest.raises(QueueFull, match="1 rollouts wait in the queue already, which is the limit"):
        begin(driver, carts, "1.0")


@pytest.mark.django_db(transaction=True)
def test_the_last_slot_is_taken_once(transactional_db: None, world: World, owner: Person) -> None:
    """Six rollouts look for the two slots at the same moment, each from a connection of its own."""
    limit(world, 2)
    driver = Driver(world, owner)
    started = [begin(driver, world.service(f"service-{n}", targets=1), "1.0") for n in range(6)]
    barrier = threading.Barrier(len(started))

    def look(rollout: Rollout) -> None:
        barrier.wait()
        try:
            tick(rollout.id)
        finally:
            connection.close()

    threads = [threading.Thread(target=look, args=[rollout]) for rollout in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    states = sorted(Rollout.objects.values_list("state", flat=True))
    assert states == ["queued"] * 4 + ["running"] * 2
