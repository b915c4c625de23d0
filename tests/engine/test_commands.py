"""What people may do to a rollout, and what it does."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import Entry
from deployments.domain.states import RolloutState
from deployments.errors import (
    Invalid,
    MoveNotAllowed,
    NoStableRelease,
    NotAllowed,
    NotFound,
    NothingToDeploy,
    RolloutActive,
    StaleVersion,
    TargetWithoutAgent,
)
from deployments.models import Agent, Batch, Event, Rollout, Service, Target, Task
from deployments.services import rollbacks, rollouts
from tests.engine.driver import Driver
from tests.fixtures import Person, World

HOUR = timedelta(hours=1)
COMMANDS = [
    rollouts.pause_rollout,
    rollouts.resume_rollout,
    rollouts.cancel_rollout,
    rollbacks.roll_back_rollout,
]


@pytest.fixture
def running(driver: Driver, orders: Service) -> Rollout:
    driver.deployed(orders, "1.0")
    return driver.tick(driver.start(orders, "1.1"))


def test_a_second_rollout_is_refused_while_one_is_active(
    running: Rollout, driver: Driver, orders: Service
) -> None:
    with pytest.raises(RolloutActive) as refusal:
        driver.start(orders, "1.2")
    assert refusal.value.extra["rollout"] == str(running.id)
    assert Rollout.objects.filter(release__version="1.2").count() == 0


def test_in_quarantine_a_rollout_can_only_be_cancelled(running: Rollout, owner: Person) -> None:
    waiting = {"kind": "fault", "sentence": "The engine failed on it.", "unblock": ["release", "cancel"]}
    Rollout.objects.filter(id=running.id).update(quarantined_at=timezone.now(), waiting_on=waiting)
    for command in (rollouts.pause_rollout, rollbacks.roll_back_rollout):
        with pytest.raises(MoveNotAllowed, match="release its fault, or cancel it"):
            command(actor=owner, rollout_id=running.id, reason="x")
    running.refresh_from_db()
    assert running.waiting_on == waiting
    rollouts.cancel_rollout(actor=owner, rollout_id=running.id, reason="x")
    running.refresh_from_db()
    assert running.state == RolloutState.CANCELLED


def test_the_database_refuses_a_second_moving_rollout(running: Rollout) -> None:
    twin = Rollout(
        service=running.service,
        environment=running.environment,
        release=running.release,
        requested_by="nobody",
        state="running",
    )
    with pytest.raises(IntegrityError), transaction.atomic():
        twin.save()


def test_a_service_without_targets_there_cannot_be_deployed(world: World, owner: Person) -> None:
    service = world.service("bare", targets=0)
    with pytest.raises(NothingToDeploy, match="Register targets"):
        Driver(world, owner).start(service, "1.0")


def test_a_target_without_agent_is_named(world: World, owner: Person) -> None:
    service = world.service("lonely", targets=2, with_agent=False)
    with pytest.raises(TargetWithoutAgent, match="lonely-01"):
        Driver(world, owner).start(service, "1.0")


def test_a_placeholder_without_a_value_is_found_before_the_start(world: World, owner: Person) -> None:
    service = world.service("orders")
    base = {"process": {"command": ["run", "${target.nowhere}"]}}
    release = world.release(service, "1.0", base=base)
    with pytest.raises(Invalid, match=r"target\.nowhere"):
        Driver(world, owner).start(service, release.version)
    assert not Rollout.objects.exists()


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"batch": "0%"}, "between 1% and 100%"),
        ({"batch": 13}, "number of targets"),
        ({"batch": "many"}, "neither a count nor a percentage"),
        ({"max_unavailable": 99}, "number of targets"),
        ({"bake_seconds": -1}, "must lie between 0 and"),
        ({"bake_seconds": 10**15}, "must lie between 0 and"),
        ({"batch": "²"}, "neither a count nor a percentage"),
        ({"batch": "9" * 5000}, "neither a count nor a percentage"),
        ({"name": "teleport"}, "not known"),
        ({"bach": 3}, "bach"),
        ({"stage_attempts": 0}, "between 1 and 20"),
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused(
    driver: Driver, orders: Service, strategy: dict[str, Any], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        driver.start(orders, "1.0", **strategy)


def test_pause_lets_what_is_under_way_end_and_starts_nothing(
    running: Rollout, driver: Driver, owner: Person
) -> None:
    driver.answer(running)
    paused = rollouts.pause_rollout(actor=owner, rollout_id=running.id, reason="lunch")
    assert paused.waiting_on["sentence"] == "Paused: lunch (owner)", "already before the engine looks"
    driver.finish(running)
    assert running.state == RolloutState.PAUSED
    assert list(Batch.objects.filter(rollout=running).values_list("state", flat=True))[:2] == [
        "baking",
        "pending",
    ]
    assert running.waiting_on["sentence"] == "Paused: lunch (owner)"


def test_resume_goes_on_and_repeats_nothing(running: Rollout, driver: Driver, owner: Person) -> None:
    driver.answer(running)
    rollouts.pause_rollout(actor=owner, rollout_id=running.id, reason="lunch")
    driver.finish(running)
    rollouts.resume_rollout(actor=owner, rollout_id=running.id, reason="fed")
    driver.finish(running)
    assert running.state == RolloutState.SUCCEEDED
    assert Task.objects.filter(rollout=running).count() == 24


def test_resume_after_a_failure_tries_the_failed_targets_again(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.finish(driver.start(orders, "1.1", on_failure="pause"), failing={"orders-01"})
    rollouts.resume_rollout(actor=driver.actor, rollout_id=rollout.id, reason="mended by hand")
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED
    tries = Task.objects.filter(rollout=rollout, kind="activate")
    assert tries.filter(target__name="orders-01").count() == 2
    assert tries.count() == 13


def test_cancel_ends_at_once_and_says_what_was_changed(
    running: Rollout, driver: Driver, owner: Person
) -> None:
    driver.answer(running)
    rollouts.cancel_rollout(actor=owner, rollout_id=running.id, reason="wrong day")
    driver.tick(running)
    assert running.state == RolloutState.CANCELLED
    assert running.outcome == (
        "wrong day (owner). 3 of 12 targets were changed and not put back. 3 of them were just being changed."
    )
    assert driver.open_tasks(running) == []


def test_a_late_report_on_a_cancelled_task_changes_nothing(
    running: Rollout, driver: Driver, owner: Person
) -> None:
    task = driver.open_tasks(running)[0]
    rollouts.cancel_rollout(actor=owner, rollout_id=running.id, reason="wrong day")
    driver.report(task)
    driver.tick(running)
    task.refresh_from_db()
    assert task.state == "cancelled"
    assert running.state == RolloutState.CANCELLED


def test_rolling_back_in_flight_turns_the_rollout_round(
    running: Rollout, driver: Driver, owner: Person, orders: Service
) -> None:
    driver.answer(running)
    same = rollbacks.roll_back_rollout(actor=owner, rollout_id=running.id, reason="slow")
    assert same.id == running.id
    driver.finish(running)
    assert running.state == RolloutState.ROLLED_BACK
    assert set(driver.running(orders).values()) == {"1.0"}


def test_rolling_back_after_the_end_is_a_rollout_of_the_last_stable_release(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    back = rollbacks.roll_back_rollout(actor=owner, rollout_id=bad.id, reason="orders are lost")
    assert (back.kind, back.release.version, back.rolls_back_id) == ("rollback", "1.0", bad.id)
    driver.finish(back)
    assert back.state == RolloutState.SUCCEEDED
    assert set(driver.running(orders).values()) == {"1.0"}


def test_there_is_no_way_back_from_the_first_release(driver: Driver, orders: Service, owner: Person) -> None:
    first = driver.deployed(orders, "1.0")
    with pytest.raises(NoStableRelease):
        rollbacks.roll_back_rollout(actor=owner, rollout_id=first.id, reason="nothing before")


def test_only_the_newest_rollout_is_rolled_back(driver: Driver, orders: Service, owner: Person) -> None:
    old = driver.deployed(orders, "1.0")
    driver.deployed(orders, "1.1")
    with pytest.raises(MoveNotAllowed, match="came with another rollout"):
        rollbacks.roll_back_rollout(actor=owner, rollout_id=old.id, reason="too late")


def test_after_a_failed_rollout_targets_go_back_to_the_last_stable_release(
    driver: Driver, orders: Service
) -> None:
    """A target left on a release that failed is not put back on that."""
    driver.deployed(orders, "1.0")
    driver.finish(driver.start(orders, "1.1", on_failure="abort"), failing={"orders-01"})
    assert driver.running(orders)["orders-01"] == "1.1"
    driver.finish(driver.start(orders, "1.2"), failing={"orders-01"})
    assert driver.running(orders)["orders-01"] == "1.0"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_outsider_does_not_learn_that_the_rollout_exists(
    running: Rollout, outsider: Person, command: Any
) -> None:
    with pytest.raises(NotFound):
        command(actor=outsider, rollout_id=running.id, reason="curious")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_viewer_is_told_whom_to_ask(running: Rollout, viewer: Person, command: Any) -> None:
    with pytest.raises(NotAllowed, match="Ask owner to grant it"):
        command(actor=viewer, rollout_id=running.id, reason="eager")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stale_version_changes_nothing(running: Rollout, owner: Person, command: Any) -> None:
    with pytest.raises(StaleVersion):
        command(actor=owner, rollout_id=running.id, reason="late", if_version=running.event_count - 1)
    running.refresh_from_db()
    assert running.state == RolloutState.RUNNING


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_what_has_ended_stays_ended(driver: Driver, orders: Service, owner: Person, command: Any) -> None:
    ended = driver.deployed(orders, "1.0")
    with pytest.raises(MoveNotAllowed):
        command(actor=owner, rollout_id=ended.id, reason="again")


def test_commands_are_in_the_audit_log_with_who_and_why(running: Rollout, owner: Person) -> None:
    rollouts.pause_rollout(actor=owner, rollout_id=running.id, reason="lunch")
    entry = Entry.objects.get(verb="rollout.pause")
    assert (entry.actor_name, entry.reason, entry.request_id, entry.address) == (
        "owner",
        "lunch (owner)",
        "request-of-owner",
        "192.0.2.7",
    )
    assert entry.before == {"state": "running"}
    assert entry.after == {"state": "paused"}


def test_without_its_audit_entry_no_change(
    running: Rollout, owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(entries: object) -> None:
        raise OSError("the audit log is full")

    before = Event.objects.filter(rollout=running).count()
    monkeypatch.setattr("audit.log.append", refuse)
    with pytest.raises(OSError, match="audit log"):
        rollouts.cancel_rollout(actor=owner, rollout_id=running.id, reason="never")
    running.refresh_from_db()
    assert running.state == RolloutState.RUNNING
    assert Event.objects.filter(rollout=running).count() == before


def test_two_people_with_opposite_buttons_get_one_answer(running: Rollout, owner: Person) -> None:
    rollouts.cancel_rollout(actor=owner, rollout_id=running.id, reason="stop")
    with pytest.raises(MoveNotAllowed):
        rollouts.resume_rollout(actor=owner, rollout_id=running.id, reason="go on")


def test_the_plan_digest_names_what_will_happen(driver: Driver, orders: Service, owner: Person) -> None:
    first = driver.deployed(orders, "1.0")
    second = driver.start(orders, "1.0")
    assert first.plan.digest == second.plan.digest, "the same decision has the same name"
    rollouts.cancel_rollout(actor=owner, rollout_id=second.id, reason="x")
    third = driver.start(orders, "1.0", batch=1)
    assert third.plan.digest != first.plan.digest


def test_resume_takes_up_a_target_that_failed_in_a_finished_batch(driver: Driver, orders: Service) -> None:
    """It was staged again and never activated, and the rollout said that it had succeeded."""
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", max_failures=1, bake_seconds=3600))
    driver.answer(rollout, failing={"orders-01"}, kind="stage", code="digest_mismatch")
    driver.finish(rollout)
    rollouts.pause_rollout(actor=driver.actor, rollout_id=rollout.id, reason="look")
    driver.finish(rollout)
    rollouts.resume_rollout(actor=driver.actor, rollout_id=rollout.id, reason="go")
    for _ in range(8):
        Batch.objects.filter(rollout=rollout, state="baking").update(activated_at=rollout.created_at - HOUR)
        driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED
    assert set(driver.running(orders).values()) == {"1.1"}


def test_resume_after_tolerated_and_other_failures_comes_to_an_end(driver: Driver, orders: Service) -> None:
    """The planner went round and round over a failed batch that nobody reopened."""
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", max_failures=1, on_failure="pause", batch=2))
    driver.answer(rollout, failing={"orders-01"}, kind="stage", code="digest_mismatch")
    driver.finish(rollout, failing={"orders-03"})
    assert rollout.state == RolloutState.PAUSED
    rollouts.resume_rollout(actor=driver.actor, rollout_id=rollout.id, reason="go")
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED
    assert set(driver.running(orders).values()) == {"1.1"}


def test_a_rollout_that_put_itself_back_is_no_obstacle_on_the_way_further_back(
    driver: Driver, orders: Service
) -> None:
    driver.deployed(orders, "1.0")
    stands = driver.deployed(orders, "1.1")
    broken = driver.finish(driver.start(orders, "1.2"), failing={"orders-01"})
    assert broken.state == RolloutState.ROLLED_BACK
    with pytest.raises(MoveNotAllowed, match=r"orders 1\.1"):
        rollbacks.roll_back_rollout(actor=driver.actor, rollout_id=broken.id, reason="back")
    back = rollbacks.roll_back_rollout(actor=driver.actor, rollout_id=stands.id, reason="back")
    assert back.release.version == "1.0"
    driver.finish(back)
    with pytest.raises(NoStableRelease):
        rollbacks.roll_back_rollout(actor=driver.actor, rollout_id=back.id, reason="not to the bad one")


def test_the_way_back_is_open_after_scaling_down(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    wide = driver.finish(driver.start(orders, "1.1", batch=12))
    gone = Target.objects.filter(service=orders, name="orders-12").get()
    Target.objects.filter(pk=gone.pk).update(service=driver.world.service("elsewhere", targets=0))
    back = rollbacks.roll_back_rollout(actor=driver.actor, rollout_id=wide.id, reason="back")
    assert back.plan.body["params"]["batch"] == 11


def test_targets_of_a_revoked_agent_are_named_before_the_start(driver: Driver, orders: Service) -> None:
    Agent.objects.update(revoked_at="2026-01-01T00:00:00Z")
    with pytest.raises(TargetWithoutAgent, match="orders-01"):
        driver.start(orders, "1.0")
