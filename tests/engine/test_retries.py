"""Retry, skip, resume: nothing that succeeded is done again, and each refusal has a way out."""

from uuid import UUID

import pytest
from django.utils import timezone

from audit.models import Entry
from deployments.domain.states import RolloutState
from deployments.errors import Invalid, MoveNotAllowed, StaleVersion
from deployments.models import Agent, Rollout, Service, Target, Task
from deployments.services.retries import retry_targets, skip_targets
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout, pause_rollout, resume_rollout
from tests.engine.driver import Driver
from tests.fixtures import Person


def target(name: str) -> UUID:
    return Target.objects.get(name=name).id


def activations(rollout: Rollout) -> dict[str, int]:
    found: dict[str, int] = {}
    for task in Task.objects.filter(rollout=rollout, kind="activate").select_related("target"):
        found[task.target.name] = found.get(task.target.name, 0) + 1
    return found


@pytest.fixture
def paused(driver: Driver, orders: Service) -> Rollout:
    """Stopped in its first batch: orders-01 and orders-02 failed, orders-03 is healthy."""
    rollout = driver.start(orders, "1.0", on_failure="pause")
    return driver.finish(rollout, failing={"orders-01", "orders-02"})


def test_only_what_failed_is_tried_again(paused: Rollout, driver: Driver, owner: Person) -> None:
    assert paused.state == RolloutState.PAUSED
    retry_targets(actor=owner, rollout_id=paused.id, reason="the disk has room again")
    driver.finish(paused)
    assert paused.state == RolloutState.SUCCEEDED
    counts = activations(paused)
    assert counts.pop("orders-01") == counts.pop("orders-02") == 2
    assert set(counts.values()) == {1}
    again = Entry.objects.filter(verb="target.staged", actor_name="owner")
    assert again.count() == 2, "who tried again is in the audit trail"


def test_one_of_two_is_not_enough_where_none_may_fail(paused: Rollout, owner: Person) -> None:
    with pytest.raises(MoveNotAllowed, match=r"orders-02 failed too.*Retry them as well, or skip them"):
        retry_targets(actor=owner, rollout_id=paused.id, reason="one", targets=[target("orders-01")])


def test_one_is_skipped_and_the_other_tried_again(paused: Rollout, driver: Driver, owner: Person) -> None:
    skip_targets(
        actor=owner, rollout_id=paused.id, targets=[target("orders-02")], reason="its machine is broken"
    )
    assert driver.tick(paused).state == RolloutState.PAUSED
    retry_targets(actor=owner, rollout_id=paused.id, reason="go", targets=[target("orders-01")])
    driver.finish(paused)
    assert paused.state == RolloutState.SUCCEEDED
    assert paused.outcome == "1 of 12 targets was skipped."
    assert driver.states(paused)["orders-02"] == "skipped"
    assert Target.objects.get(name="orders-02").stable_release is None, "it is not called stable"
    assert Target.objects.get(name="orders-01").stable_release is not None


def test_when_all_that_failed_is_skipped_it_goes_on(paused: Rollout, driver: Driver, owner: Person) -> None:
    both = [target("orders-01"), target("orders-02")]
    skip_targets(actor=owner, rollout_id=paused.id, targets=both, reason="machines are gone")
    resume_rollout(actor=owner, rollout_id=paused.id, reason="without them")
    driver.finish(paused)
    assert paused.state == RolloutState.SUCCEEDED
    assert paused.outcome == "2 of 12 targets were skipped."


def test_a_skipped_target_goes_back_with_the_others(driver: Driver, orders: Service, owner: Person) -> None:
    driver.deployed(orders, "0.9")
    rollout = driver.start(orders, "1.0", on_failure="pause")
    driver.finish(rollout, failing={"orders-01"})
    skip_targets(actor=owner, rollout_id=rollout.id, targets=[target("orders-01")], reason="later")
    resume_rollout(actor=owner, rollout_id=rollout.id, reason="go on")
    driver.tick(rollout)
    driver.answer(rollout, failing={"orders-04"})
    assert rollout.state == RolloutState.PAUSED
    roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="enough")
    driver.finish(rollout)
    assert rollout.state == RolloutState.ROLLED_BACK
    assert set(driver.running(orders).values()) == {"0.9"}


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_after_the_end_a_rollout_of_its_own_brings_the_rest(
    driver: Driver, orders: Service, owner: Person, end: str
) -> None:
    driver.deployed(orders, "0.9")
    policy = "abort" if end == "failed" else "pause"
    first = driver.start(orders, "1.0", on_failure=policy, batch=6)
    driver.finish(first, failing={"orders-01"})
    if end == "cancelled":
        cancel_rollout(actor=owner, rollout_id=first.id, reason="over")
        driver.tick(first)
    assert first.state == end
    done = [name for name, state in driver.states(first).items() if state == "healthy"]
    again = retry_targets(actor=owner, rollout_id=first.id, reason="mended")
    assert again.retries_id == first.id
    assert set(driver.states(again)) == set(driver.states(first)) - set(done)
    driver.finish(again)
    assert again.state == RolloutState.SUCCEEDED
    assert not set(activations(again)) & set(done), "nothing that succeeded is done again"
    stable = Target.objects.filter(service=orders, stable_release=first.release).count()
    assert stable == 12, "what the first one brought is stable too"


def test_a_target_of_a_dead_agent_is_skipped_in_the_middle_of_its_activation(
    driver: Driver, orders: Service, owner: Person
) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    driver.answer(rollout)
    with pytest.raises(MoveNotAllowed, match="being changed right now"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=[target("orders-01")], reason="x")
    driver.silent = True
    Agent.objects.update(last_seen_at=timezone.now() - timezone.timedelta(minutes=5))
    task = next(one for one in driver.open_tasks(rollout) if one.target.name == "orders-01")
    skip_targets(actor=owner, rollout_id=rollout.id, targets=[target("orders-01")], reason="it burns")
    task.refresh_from_db()
    assert task.state == "cancelled"
    driver.report(task)
    driver.silent = False
    driver.tick(rollout)
    assert driver.states(rollout)["orders-01"] == "skipped", "a late result does not count"
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


def test_what_cannot_be_retried_or_skipped_is_refused_with_the_way_out(
    driver: Driver, orders: Service, owner: Person
) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    one = [target("orders-01")]
    cases = [
        (retry_targets, {}, "there is nothing to try again"),
        (retry_targets, {"targets": one}, "orders-01 is staging; only a failed target"),
    ]
    for command, arguments, sentence in cases:
        with pytest.raises(MoveNotAllowed, match=sentence):
            command(actor=owner, rollout_id=rollout.id, reason="x", **arguments)
    with pytest.raises(Invalid, match="say why"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=one, reason="  ")
    with pytest.raises(Invalid, match="no targets of this rollout"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=[rollout.id], reason="x")
    with pytest.raises(Invalid, match="name at least one"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=[], reason="x")
    everything = list(Target.objects.filter(service=orders).values_list("id", flat=True))
    with pytest.raises(MoveNotAllowed, match=r"No target would be left in this rollout. Cancel it instead"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=everything, reason="x")
    with pytest.raises(StaleVersion):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=one, reason="x", if_version=1)
    driver.finish(rollout)
    with pytest.raises(MoveNotAllowed, match=r"at its end: succeeded. Retry its targets, or start a new"):
        resume_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    with pytest.raises(MoveNotAllowed, match="Every target of this rollout runs the release"):
        retry_targets(actor=owner, rollout_id=rollout.id, reason="x")
    with pytest.raises(MoveNotAllowed, match="none of its targets can be skipped any more"):
        skip_targets(actor=owner, rollout_id=rollout.id, targets=one, reason="x")


def test_pausing_twice_says_what_else_there_is(driver: Driver, orders: Service, owner: Person) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    pause_rollout(actor=owner, rollout_id=rollout.id, reason="x")
    with pytest.raises(MoveNotAllowed, match=r"paused already. Resume it, roll it back or cancel it"):
        pause_rollout(actor=owner, rollout_id=rollout.id, reason="x")
