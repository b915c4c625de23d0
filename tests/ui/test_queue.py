"""What the queue tells whom."""

from collections.abc import Callable
from typing import Any

import pytest

from deployments.models import Environment, Rollout, Service
from deployments.reads import queue
from deployments.services.rollouts import start_rollout
from tests.engine.driver import Driver
from tests.fixtures import Person, World

Started = Callable[..., Rollout]


@pytest.fixture
def started(driver: Driver, world: World, admin: Person) -> Started:
    """`started(service, version)`: by an administrator, behind what moves there; ticked."""

    def _started(service: Service, version: str = "1.0") -> Rollout:
        rollout = start_rollout(
            actor=admin,
            service_id=service.id,
            environment_id=world.prod.id,
            release_id=world.release(service, version).id,
            reason="test",
            if_busy="queue",
        )
        return driver.tick(rollout)

    return _started


@pytest.fixture
def theirs(world: World) -> Service:
    """Another team's service."""
    return world.service("bills", team=world.other_team, targets=1)


def of_prod(actor: Person) -> queue.QueueOf:
    return next(one for one in queue.by_environment(actor) if one.environment.name == "prod")


def named(one: queue.QueueOf) -> list[str]:
    return [str(waiter.rollout) if waiter.rollout else "-" for waiter in one.waiting]


def test_what_moves_beyond_those_shown_is_not_taken_for_other_teams(
    monkeypatch: pytest.MonkeyPatch, get: Any, owner: Person, started: Started, theirs: Service, world: World
) -> None:
    monkeypatch.setattr(queue, "SHOWN", 2)
    started(theirs)
    for number in range(3):
        started(world.service(f"own-{number}", targets=1))
    one = of_prod(owner)
    assert (len(one.moving), one.moving_visible, one.moving_total) == (2, 3, 4)
    page = get(owner, "/queue/").content.decode()
    assert "and 1 more<" in page
    assert "1 of other teams" in page


def test_ones_own_are_shown_however_many_go_before_them(
    monkeypatch: pytest.MonkeyPatch,
    owner: Person,
    admin: Person,
    started: Started,
    theirs: Service,
    orders: Service,
) -> None:
    monkeypatch.setattr(queue, "SHOWN", 2)
    started(orders)
    started(theirs)
    for version in ("1.1", "1.2", "1.3"):
        started(theirs, version)
    started(orders, "2.0")
    # In turn by team, so that the own one comes second or later whichever team has less under way.
    mine = of_prod(owner)
    assert "orders 2.0 to prod" in named(mine)
    Rollout.objects.filter(release__version="2.0").update(priority=Rollout.Priority.LOW)
    mine = of_prod(owner)
    assert named(mine) == ["-", "-", "orders 2.0 to prod"]
    assert [waiter.place.place for waiter in mine.waiting] == [1, 2, 4]
    assert mine.waiting_total == 4
    assert len(of_prod(admin).waiting) == 2


def test_of_other_teams_only_what_concerns_everybody_is_told(
    get: Any, owner: Person, admin: Person, started: Started, theirs: Service
) -> None:
    started(theirs)
    started(theirs, "1.1")
    (known,) = of_prod(admin).waiting
    assert (known.place.blocked_by, known.place.limit) == ("service", 1)
    assert known.since
    (hidden,) = of_prod(owner).waiting
    assert (hidden.place.blocked_by, hidden.place.limit, hidden.since) == ("", 0, None)
    page = get(owner, "/queue/").content.decode()
    assert "another team&#x27;s rollout" in page or "another team's rollout" in page
    assert "another rollout of the service" not in page
    assert "it is next" not in page
    answer = get(owner, "/api/v1/queue").json()["environments"][0]
    assert [(row["rollout"], row["since"], row["blocked_by"]) for row in answer["waiting"]] == [
        (None, None, "")
    ]


def test_the_environments_limit_is_everybodys_business(
    owner: Person, started: Started, theirs: Service, orders: Service
) -> None:
    Environment.objects.filter(name="prod").update(max_active=1)
    started(orders)
    started(theirs)
    (hidden,) = of_prod(owner).waiting
    assert (hidden.rollout, hidden.place.blocked_by, hidden.place.limit) == (None, "environment", 1)
