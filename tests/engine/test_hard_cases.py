"""What a hurried reader would get wrong: cases in which two good rules meet."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments.domain.states import RolloutState
from deployments.engine import sweep, way_back
from deployments.errors import Invalid, MoveNotAllowed, ReleaseOnHold, RolloutActive
from deployments.models import (
    Agent,
    Environment,
    Hold,
    QueuedJob,
    Rollout,
    RolloutTarget,
    Service,
    Target,
)
from deployments.reads import rollouts as reads
from deployments.services.catalog import change_environment
from deployments.services.holds import hold_release, lift_hold
from deployments.services.planning import plan_rollout
from deployments.services.retries import retry_targets, skip_targets
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout, pause_rollout, resume_rollout
from tests.engine.driver import Driver
from tests.fixtures import Person, World


def repair(driver: Driver, service: Service, version: str, name: str) -> Rollout:
    target = Target.objects.get(name=name)
    return plan_rollout(
        actor=driver.actor,
        service=service,
        environment=driver.world.prod,
        release=service.releases.get(version=version),
        strategy={"on_failure": "abort"},
        reason="drift",
        kind=Rollout.Kind.REPAIR,
        only={target.id},
        priority=Rollout.Priority.LOW,
    )


def woken() -> set[str]:
    jobs = QueuedJob.objects.filter(coalesce_key__startswith="tick:")
    return {str(key).removeprefix("tick:") for key in jobs.values_list("coalesce_key", flat=True)}


def test_a_wake_up_that_is_lost_after_a_command_is_found(
    driver: Driver, orders: Service, owner: Person
) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    pause_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    driver.tick(rollout)
    resume_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    QueuedJob.objects.all().delete()
    assert rollout.id in sweep.due()


def test_who_waits_for_a_worker_is_found_whatever_its_state_is(driver: Driver, orders: Service) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    since = (timezone.now() - timedelta(seconds=5)).isoformat()
    Rollout.objects.filter(id=rollout.id).update(
        waiting_on={"kind": "engine", "sentence": "x", "since": since},
        next_check_at=None,
        created_at=timezone.now() - timedelta(minutes=1),
    )
    assert rollout.id in sweep.lost()


def test_a_limit_that_is_lifted_lets_all_go_at_once(
    driver: Driver, orders: Service, world: World, admin: Person
) -> None:
    Environment.objects.update(max_active=1)
    driver.tick(driver.start(orders, "1.0"))
    waiting = [
        driver.tick(driver.start(world.service(f"s{number}", targets=1), "1.0")) for number in range(5)
    ]
    assert {rollout.state for rollout in waiting} == {"queued"}
    QueuedJob.objects.all().delete()
    change_environment(actor=admin, environment_id=world.prod.id, max_active=None)
    assert {str(rollout.id) for rollout in waiting} <= woken()


def test_a_silent_agent_has_its_time_anew_after_a_resume_and_its_targets_can_be_skipped(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", on_silent="pause", silent_seconds=30))
    driver.answer(rollout)
    driver.silent = True
    Agent.objects.update(last_seen_at=timezone.now() - timedelta(seconds=5))
    driver.later(rollout, 31)
    assert rollout.state == RolloutState.PAUSED
    assert "skip" in rollout.waiting_on["unblock"]
    resume_rollout(actor=owner, rollout_id=rollout.id, reason="it comes back soon")
    assert driver.tick(rollout).state == RolloutState.RUNNING


def test_a_rollback_under_way_can_be_stopped_and_says_what_is_back(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", batch="100%"))
    driver.answer(rollout)
    roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="slow")
    driver.tick(rollout)
    driver.report(driver.open_tasks(rollout)[0])
    driver.tick(rollout)
    assert rollout.waiting_on["unblock"] == ["cancel"]
    cancel_rollout(actor=owner, rollout_id=rollout.id, reason="agents are gone")
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.FAILED
    assert rollout.outcome.endswith("1 of 12 targets was put back.")
    assert not driver.open_tasks(rollout)
    again = roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="once more")
    assert again.targets.count() == 11, "what could not be put back, and nothing else"


def test_a_target_that_waits_for_its_next_try_uses_up_the_limit(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    policy: dict[str, Any] = {"activate_attempts": 2, "retry_base_seconds": 60, "retry_max_seconds": 60}
    rollout = driver.tick(driver.start(orders, "1.1", batch=2, max_unavailable=1, **policy))
    driver.answer(rollout)
    driver.answer(rollout, failing={"orders-01"}, code="exited")
    assert not driver.open_tasks(rollout), "orders-01 is down: nothing else may be"


def test_the_stable_release_is_not_distrusted_for_failing_once_more(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    again = driver.finish(driver.start(orders, "1.0"), failing={"orders-01"})
    assert again.state == RolloutState.ROLLED_BACK
    assert not Hold.objects.exists()


def test_nor_for_a_person_who_turns_its_redeployment_round(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    again = driver.tick(driver.start(orders, "1.0"))
    driver.answer(again)
    roll_back_rollout(actor=owner, rollout_id=again.id, reason="not now")
    assert driver.finish(again).state == RolloutState.ROLLED_BACK
    assert not Hold.objects.exists()


def test_a_rollback_that_changed_nothing_does_not_count(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    good = driver.deployed(orders, "1.1")
    back = roll_back_rollout(actor=owner, rollout_id=good.id, reason="x")
    cancel_rollout(actor=owner, rollout_id=back.id, reason="no, it was the database")
    lift_hold(actor=owner, release_id=good.release_id, reason="it was not the release")
    last = driver.deployed(orders, "1.2")
    choice = way_back.choose(last)
    assert choice.release == good.release, choice.why


def test_repairs_do_not_crowd_out_the_way_back(driver: Driver, orders: Service) -> None:
    stable = driver.deployed(orders, "1.0")
    driver.deployed(orders, "1.1")
    for _ in range(3):
        Rollout.objects.create(
            service=orders,
            environment=driver.world.prod,
            release=stable.release,
            kind=Rollout.Kind.REPAIR,
            state="failed",
            requested_by="clock",
            started_at=timezone.now(),
        )
    bad = driver.deployed(orders, "1.2")
    choice = way_back.choose(bad)
    assert choice.release is not None
    assert choice.release.version == "1.1"
    assert "did not succeed" not in choice.why


def test_what_is_being_rolled_back_is_not_rolled_back_again(
    driver: Driver, orders: Service, owner: Person, teammate: Person
) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    roll_back_rollout(actor=owner, rollout_id=bad.id, reason="x")
    with pytest.raises(MoveNotAllowed, match="being rolled back already, by owner"):
        roll_back_rollout(actor=teammate, rollout_id=bad.id, reason="x")


def test_a_hold_stops_what_brings_the_release_and_is_not_passed_by_resume(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1"))
    hold_release(actor=owner, release_id=rollout.release_id, reason="another environment lost orders")
    assert str(rollout.id) in woken()
    driver.finish(rollout)
    assert rollout.state == RolloutState.PAUSED
    assert "Its release went on hold: another environment lost orders" in rollout.outcome
    assert "resume" not in rollout.waiting_on["unblock"]
    for command in (resume_rollout, retry_targets):
        with pytest.raises((ReleaseOnHold, MoveNotAllowed)):
            command(actor=owner, rollout_id=rollout.id, reason="x")
    lift_hold(actor=owner, release_id=rollout.release_id, reason="it was not the release")
    driver.tick(rollout)
    assert "resume" in rollout.waiting_on["unblock"]
    resume_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    assert driver.finish(rollout).state == RolloutState.SUCCEEDED


def test_a_full_queue_keeps_no_way_back_waiting(
    driver: Driver, orders: Service, owner: Person, world: World, settings: Any
) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    driver.start(world.service("carts", targets=1), "1.0")
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, max_queued_rollouts=1)
    assert roll_back_rollout(actor=owner, rollout_id=bad.id, reason="x").kind == "rollback"


def test_after_a_rollback_that_failed_in_part_the_way_on_is_to_roll_back_again(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1"))
    driver.answer(rollout)
    driver.answer(rollout, failing={"orders-02"})
    for _ in range(4):
        driver.answer(rollout, failing={"orders-01"}, kind="revert", code="exited")
        driver.later(rollout, 31)
    driver.finish(rollout)
    assert rollout.state == RolloutState.FAILED
    assert "1 could not be put back and need a person: orders-01" in rollout.outcome
    with pytest.raises(MoveNotAllowed, match=r"ended on its way back. Roll it back again"):
        retry_targets(actor=owner, rollout_id=rollout.id, reason="x")
    offered = reads.actions(owner, rollout, reads.count_targets([rollout.id])[rollout.id])
    assert "rollback" in offered
    assert "retry" not in offered
    again = roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="its disk has room again")
    assert list(again.targets.values_list("target__name", flat=True)) == ["orders-01"]
    driver.finish(again)
    assert set(driver.running(orders).values()) == {"1.0"}


def test_a_repair_that_waits_is_in_nobodys_way(driver: Driver, orders: Service, owner: Person) -> None:
    driver.deployed(orders, "1.0")
    waiting = repair(driver, orders, "1.0", "orders-01")
    rollout = driver.start(orders, "1.1")
    waiting.refresh_from_db()
    assert (waiting.state, rollout.state) == ("superseded", "pending")
    driver.finish(rollout)
    moving = driver.tick(repair(driver, orders, "1.1", "orders-01"))
    with pytest.raises(RolloutActive, match=r"A repair, orders 1.1 to prod, is running"):
        driver.start(orders, "1.2")
    driver.finish(moving)


def test_a_repair_keeps_nobody_from_retrying(driver: Driver, orders: Service, owner: Person) -> None:
    driver.deployed(orders, "1.0")
    failed = driver.finish(driver.start(orders, "1.1", on_failure="abort"), failing={"orders-01"})
    untouched = RolloutTarget.objects.filter(rollout=failed, touched=False).first()
    assert untouched is not None
    driver.finish(repair(driver, orders, "1.0", untouched.target.name))
    assert retry_targets(actor=owner, rollout_id=failed.id, reason="mended").retries_id == failed.id


@pytest.mark.parametrize("name", ["on_failure", "on_task_failure", "on_unhealthy", "on_timeout", "on_silent"])
def test_no_reaction_asks_for_a_way_back_that_is_not_there(
    driver: Driver, orders: Service, name: str
) -> None:
    with pytest.raises(Invalid, match="has a stable release to go back to yet"):
        driver.start(orders, "1.0", **{name: "rollback"})


def test_refusals_name_the_way_on(driver: Driver, orders: Service, owner: Person) -> None:
    rollout = driver.start(orders, "1.0")
    with pytest.raises(MoveNotAllowed, match=r"this one is pending. Cancel it instead."):
        pause_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    driver.finish(rollout)
    with pytest.raises(
        MoveNotAllowed, match=r"at its end: succeeded. To undo what it changed, roll it back."
    ):
        cancel_rollout(actor=owner, rollout_id=rollout.id, reason="x")


def test_the_only_target_is_not_offered_to_be_skipped(driver: Driver, world: World, owner: Person) -> None:
    single = world.service("single", targets=1)
    rollout = driver.finish(driver.start(single, "1.0", on_failure="pause"), failing={"single-01"})
    assert rollout.state == RolloutState.PAUSED
    assert "skip" not in rollout.waiting_on["unblock"]
    with pytest.raises(MoveNotAllowed, match="Cancel it instead"):
        skip_targets(
            actor=owner, rollout_id=rollout.id, targets=[rollout.targets.get().target_id], reason="x"
        )
