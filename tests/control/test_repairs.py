"""Repairs: where the environment says so, of what stands still, and never hotly."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from audit.models import Entry
from deployments.domain.actor import Actor
from deployments.domain.states import RolloutState
from deployments.errors import NotAllowed, NotFound
from deployments.models import Agent, Environment, Hold, Rollout, Service, Target
from deployments.services import repairs
from deployments.services.repairs import repair_drift
from tests.engine.driver import Driver
from tests.fixtures import Person, World

CLOCK = Actor.system("clock")


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_refused", {})


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def standing(driver: Driver, orders: Service) -> Service:
    """The service with 1.0 everywhere, in an environment that repairs."""
    driver.deployed(orders, "1.0")
    Environment.objects.update(on_drift="repair")
    return orders


def drifts(service: Service, count: int = 1, cause: str = "files", seconds: float = 3.0) -> list[Target]:
    """That many targets drift since so long."""
    targets = list(service.targets.order_by("name")[:count])
    since = timezone.now() - timedelta(seconds=seconds)
    Target.objects.filter(pk__in=[one.pk for one in targets]).update(
        drift=cause, drift_since=since, reported={"modified": ["app.py"]}
    )
    Agent.objects.update(last_seen_at=timezone.now())
    return targets


def heal(service: Service) -> None:
    service.targets.update(drift="", drift_since=None)


def test_what_drifted_gets_the_stable_release_again_and_nothing_else_is_touched(
    driver: Driver, standing: Service
) -> None:
    targets = drifts(standing, 2)
    (rollout,) = repair_drift(actor=CLOCK)
    assert (rollout.kind, rollout.priority) == (Rollout.Kind.REPAIR, Rollout.Priority.LOW)
    assert rollout.release.version == "1.0"
    assert set(rollout.targets.values_list("target", flat=True)) == {one.id for one in targets}
    assert (
        rollout.reason == "Repair of orders-01 and 1 more. Files of 1.0 were changed on the target: app.py."
    )
    assert rollout.requested_by == "clock"
    entry = Entry.objects.filter(verb="rollout.create").latest("id")
    assert (entry.actor_kind, entry.object_id) == ("system", str(rollout.id))
    assert repair_drift(actor=CLOCK) == [], "it is on its way"
    assert driver.finish(rollout).state == RolloutState.SUCCEEDED


@pytest.mark.parametrize(
    "change",
    [
        lambda service: Environment.objects.update(on_drift="show"),
        lambda service: service.targets.update(drift_since=timezone.now()),
        lambda service: drifts(service, cause="process", seconds=9),
        lambda service: service.targets.update(stable_release=None),
        lambda service: service.targets.update(release=None),
        lambda service: Agent.objects.update(last_seen_at=timezone.now() - timedelta(hours=1)),
        lambda service: Agent.objects.update(revoked_at=timezone.now()),
        lambda service: heal(service),
    ],
    ids=["shown", "just now", "heals itself", "unproved", "nothing sent", "silent", "revoked", "right"],
)
def test_not_everything_is_repaired(change: Any, standing: Service) -> None:
    drifts(standing)
    change(standing)
    assert repair_drift(actor=CLOCK) == []


def test_a_process_that_stays_down_is_repaired_after_a_while(standing: Service) -> None:
    drifts(standing, cause="process", seconds=30)
    assert len(repair_drift(actor=CLOCK)) == 1


def test_nothing_is_repaired_beside_another_rollout(driver: Driver, standing: Service) -> None:
    rollout = driver.start(standing, "2.0")
    drifts(standing)
    assert repair_drift(actor=CLOCK) == []
    driver.finish(rollout)
    drifts(standing)
    (repair,) = repair_drift(actor=CLOCK)
    assert repair.release.version == "2.0"


def passes(seconds: float) -> None:
    """Time, as far as repairs and drift are concerned."""
    ago = timedelta(seconds=seconds)
    Rollout.objects.filter(kind="repair").update(
        created_at=F("created_at") - ago, finished_at=F("finished_at") - ago
    )
    Target.objects.update(drift_since=F("drift_since") - ago)


def test_a_repair_that_does_not_hold_is_not_tried_again_at_once(driver: Driver, standing: Service) -> None:
    drifts(standing)
    for wait in (60, 300, 1800, 1800):
        driver.finish(*repair_drift(actor=CLOCK))
        heal(standing)
        drifts(standing)
        passes(wait - 10)
        assert repair_drift(actor=CLOCK) == []
        passes(20)
    (rollout,) = repair_drift(actor=CLOCK)
    assert rollout.reason.endswith("4 repairs before did not hold.")


def test_a_repair_that_held_is_forgotten(driver: Driver, standing: Service) -> None:
    drifts(standing)
    driver.finish(*repair_drift(actor=CLOCK))
    heal(standing)
    passes(700)
    drifts(standing)
    assert len(repair_drift(actor=CLOCK)) == 1


def test_a_repair_that_fails_makes_room_and_waits(driver: Driver, standing: Service) -> None:
    drifts(standing)
    (rollout,) = repair_drift(actor=CLOCK)
    driver.finish(rollout, failing=["orders-01"])
    assert rollout.state == RolloutState.FAILED
    drifts(standing, seconds=600)
    assert repair_drift(actor=CLOCK) == []
    passes(61)
    assert len(repair_drift(actor=CLOCK)) == 1


def test_a_release_on_hold_is_not_repaired_and_not_asked_for_all_the_time(
    standing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = drifts(standing)
    assert targets[0].release is not None
    hold = Hold.objects.create(release=targets[0].release, reason="it is broken", placed_by="owner")
    assert repair_drift(actor=CLOCK) == []
    Hold.objects.filter(pk=hold.pk).update(lifted_at=timezone.now())
    assert repair_drift(actor=CLOCK) == []
    repairs._refused.clear()
    assert len(repair_drift(actor=CLOCK)) == 1


def test_a_target_that_does_not_hold_keeps_no_other_waiting(driver: Driver, standing: Service) -> None:
    drifts(standing)
    driver.finish(*repair_drift(actor=CLOCK))
    drifts(standing, 3)
    (rollout,) = repair_drift(actor=CLOCK)
    assert sorted(one.target.name for one in rollout.targets.all()) == ["orders-02", "orders-03"]


def test_each_service_is_repaired_by_itself(driver: Driver, standing: Service, catalog: World) -> None:
    other = catalog.service("other", targets=2)
    driver.deployed(other, "1.0")
    drifts(standing)
    drifts(other, 2)
    found = repair_drift(actor=CLOCK)
    assert sorted((one.service.name, one.targets.count()) for one in found) == [("orders", 1), ("other", 2)]


def test_who_may_not_deploy_may_not_repair(standing: Service, outsider: Person, viewer: Person) -> None:
    drifts(standing)
    for actor, error in ((outsider, NotFound), (viewer, NotAllowed)):
        with pytest.raises(error):
            repair_drift(actor=actor)
    assert not Rollout.objects.filter(kind="repair").exists()
