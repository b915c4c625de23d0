"""A bad release stays out until its hold is lifted; a way back that does not fit is refused."""

from pathlib import Path

import pytest

from audit.models import Entry
from deployments.artifacts import store
from deployments.domain.states import RolloutState
from deployments.errors import Conflict, Invalid, MoveNotAllowed, NoStableRelease, ReleaseOnHold
from deployments.models import Hold, Release, Service, Target
from deployments.services.holds import hold_release, lift_hold
from deployments.services.retries import retry_targets
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout, start_rollout
from tests.engine.driver import Driver
from tests.fixtures import CONFIG, Person, World


def held(version: str) -> Hold | None:
    return Hold.objects.filter(release__version=version, lifted_at__isnull=True).first()


def test_an_automatic_rollback_puts_the_bad_release_on_hold(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.finish(driver.start(orders, "1.1"), failing={"orders-01"})
    assert bad.state == RolloutState.ROLLED_BACK
    hold = held("1.1")
    assert hold is not None
    assert hold.rollout_id == bad.id
    with pytest.raises(ReleaseOnHold, match=r"orders 1.1 is on hold since .*orders-01 failed.*Lift its hold"):
        driver.start(orders, "1.1")
    lift_hold(actor=owner, release_id=bad.release_id, reason="it was the test's fault")
    driver.deployed(orders, "1.1")
    verbs = Entry.objects.filter(object_id=str(bad.release_id)).values_list("verb", flat=True)
    assert {"release.hold", "release.lift"} <= set(verbs)


@pytest.mark.parametrize("from_state", ["running", "paused", "failed", "cancelled", "succeeded"])
def test_the_way_back_is_open_from_everywhere_and_ends_on_the_stable_pair(
    driver: Driver, orders: Service, owner: Person, world: World, from_state: str
) -> None:
    first = driver.deployed(orders, "1.0")
    world.release(orders, "1.1", base=CONFIG | {"env": {"PORT": "${target.port}", "NEW": "1"}})
    policy = {"failed": "abort", "paused": "pause"}.get(from_state, "rollback")
    rollout = driver.tick(driver.start(orders, "1.1", on_failure=policy))
    driver.answer(rollout)
    if from_state in ("failed", "paused"):
        driver.answer(rollout, failing={"orders-01"})
    elif from_state == "cancelled":
        driver.answer(rollout)
        cancel_rollout(actor=owner, rollout_id=rollout.id, reason="enough")
    elif from_state == "succeeded":
        driver.finish(rollout)
    rollout.refresh_from_db()
    assert rollout.state == from_state
    back = roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="orders are lost")
    assert held("1.1") is not None
    driver.finish(back)
    if from_state in ("running", "paused"):
        assert back.id == rollout.id
        assert back.state == RolloutState.ROLLED_BACK
    else:
        assert (back.kind, back.rolls_back_id) == ("rollback", rollout.id)
        assert back.state == RolloutState.SUCCEEDED
        assert "1.0 is the release of the newest rollout here that succeeded" in back.reason
        touched = set(rollout.targets.filter(touched=True).values_list("target_id", flat=True))
        assert set(back.targets.values_list("target_id", flat=True)) == touched, "only what was changed"
    assert set(Target.objects.values_list("release", flat=True)) == {first.release_id}
    assert held("1.0") is None, "what it went back to is not distrusted"


def test_a_rollout_that_waited_while_its_release_went_on_hold_does_not_start(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    moving = driver.tick(driver.start(orders, "1.1"))
    release = driver.world.release(orders, "1.2")
    waiting = start_rollout(
        actor=owner,
        service_id=orders.id,
        environment_id=driver.world.prod.id,
        release_id=release.id,
        if_busy="queue",
    )
    driver.tick(waiting)
    hold_release(actor=owner, release_id=release.id, reason="it leaks memory")
    driver.finish(moving)
    driver.tick(waiting)
    assert waiting.state == RolloutState.FAILED
    assert "went on hold while the rollout waited: it leaks memory. Nothing was changed." in waiting.outcome


def test_a_way_back_onto_a_release_on_hold_is_refused_and_an_older_one_may_be_named(
    driver: Driver, orders: Service, owner: Person
) -> None:
    old, stable = driver.deployed(orders, "0.9"), driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    hold_release(actor=owner, release_id=stable.release_id, reason="it leaks memory")
    with pytest.raises(NoStableRelease, match=r"1.0, is on hold: it leaks.*or name an older one: 0.9"):
        roll_back_rollout(actor=owner, rollout_id=bad.id, reason="back")
    back = roll_back_rollout(actor=owner, rollout_id=bad.id, reason="back", release_id=old.release_id)
    driver.finish(back)
    assert set(driver.running(orders).values()) == {"0.9"}


def test_in_flight_it_does_not_go_back_onto_a_release_on_hold(
    driver: Driver, orders: Service, owner: Person
) -> None:
    stable = driver.deployed(orders, "1.0")
    by_hand = driver.tick(driver.start(orders, "1.1", on_failure="rollback"))
    driver.answer(by_hand)
    hold_release(actor=owner, release_id=stable.release_id, reason="it leaks memory")
    with pytest.raises(ReleaseOnHold, match=r"go back to orders 1.0, which is on hold: it leaks memory"):
        roll_back_rollout(actor=owner, rollout_id=by_hand.id, reason="back")
    driver.answer(by_hand, failing={"orders-01"})
    assert by_hand.state == RolloutState.PAUSED, "by itself neither"
    assert "It cannot go back by itself: the stable release of" in by_hand.outcome
    lift_hold(actor=owner, release_id=stable.release_id, reason="better than nothing")
    roll_back_rollout(actor=owner, rollout_id=by_hand.id, reason="back")
    assert driver.finish(by_hand).state == RolloutState.ROLLED_BACK


def test_a_stable_release_that_does_not_fit_any_more_is_refused_with_the_reason(
    driver: Driver, orders: Service, owner: Person, world: World
) -> None:
    driver.deployed(orders, "1.0")
    world.release(orders, "1.1", base={"process": {"command": ["run"]}})
    bad = driver.deployed(orders, "1.1")
    Target.objects.filter(name="orders-01").update(variables={})
    with pytest.raises(Invalid, match=r"orders-01: \$\{target.port\} has no value here"):
        roll_back_rollout(actor=owner, rollout_id=bad.id, reason="back")
    assert held("1.1") is None, "a refusal changes nothing"


def test_a_stable_release_whose_bytes_are_gone_is_refused_with_the_reason(
    driver: Driver, orders: Service, owner: Person
) -> None:
    # Bytes of its own: other tests use the same store.
    driver.world.release(orders, "1.0", content=b"bytes that will be missing")
    stable = driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    digest = Release.objects.get(id=stable.release_id).artifact.digest
    with store.open_artifact(digest) as file:
        path = file.name
    Path(path).unlink()
    with pytest.raises(NoStableRelease, match="is missing from the store"):
        roll_back_rollout(actor=owner, rollout_id=bad.id, reason="back")


def test_the_fast_path_gives_each_target_one_task_and_stages_nothing(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", batch="100%"))
    driver.answer(rollout)
    roll_back_rollout(actor=owner, rollout_id=rollout.id, reason="slow")
    driver.tick(rollout)
    assert {task.kind for task in driver.open_tasks(rollout)} == {"revert"}
    driver.answer(rollout)
    assert rollout.state == RolloutState.ROLLED_BACK


def test_why_it_goes_where_it_goes_is_kept_however_long_the_reason_is(
    driver: Driver, orders: Service, owner: Person
) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.deployed(orders, "1.1")
    back = roll_back_rollout(actor=owner, rollout_id=bad.id, reason="Orders fail. " * 50)
    assert len(back.reason) <= 500
    assert back.reason.startswith("Orders fail. Orders fail.")
    assert "1.0 is the release of the newest rollout here that succeeded and stayed." in back.reason


def test_holds_by_hand_refuse_what_makes_no_sense(driver: Driver, orders: Service, owner: Person) -> None:
    release = driver.world.release(orders, "1.0")
    with pytest.raises(Invalid, match="say why"):
        hold_release(actor=owner, release_id=release.id, reason=" ")
    hold_release(actor=owner, release_id=release.id, reason="wait for legal")
    with pytest.raises(Conflict, match="on hold already"):
        hold_release(actor=owner, release_id=release.id, reason="again")
    with pytest.raises(ReleaseOnHold):
        driver.start(orders, "1.0")
    lift_hold(actor=owner, release_id=release.id, reason="legal said yes")
    with pytest.raises(Conflict, match="is not on hold"):
        lift_hold(actor=owner, release_id=release.id, reason="again")


def test_what_was_rolled_back_is_not_retried(driver: Driver, orders: Service, owner: Person) -> None:
    driver.deployed(orders, "1.0")
    bad = driver.finish(driver.start(orders, "1.1"), failing={"orders-01"})
    with pytest.raises(MoveNotAllowed, match=r"nothing of it can be retried. Start a new one"):
        retry_targets(actor=owner, rollout_id=bad.id, reason="once more")
