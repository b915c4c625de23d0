import re
from collections.abc import Callable
from typing import Any

import pytest

from deployments.models import Rollout, Service
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World

Get = Callable[..., Any]


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def stable(driver: Driver, orders: Service) -> Rollout:
    """Release 1.0 runs everywhere."""
    return driver.deployed(orders, "1.0")


@pytest.fixture
def rollout(driver: Driver, orders: Service, stable: Rollout) -> Rollout:
    """Release 1.1 on its way: staged everywhere, the first batch at work."""
    started = driver.start(orders, "1.1")
    driver.tick(started)
    driver.answer(started)
    return started


@pytest.fixture
def pages(rollout: Rollout, orders: Service) -> dict[str, str]:
    """Every page about the team's own things."""
    target = orders.targets.order_by("name").first()
    assert target is not None
    return {
        "service": "/services/orders/",
        "release": f"/releases/{rollout.release_id}/",
        "rollout": f"/rollouts/{rollout.id}/",
        "status": f"/rollouts/{rollout.id}/status/",
        "failures": f"/rollouts/{rollout.id}/failures/",
        "events": f"/rollouts/{rollout.id}/events/",
        "target": f"/targets/{target.id}/",
        "log": f"/targets/{target.id}/log/",
    }


COMMON = ("/", "/rollouts/", "/environments/", "/environments/prod/", "/agents/")


@pytest.fixture
def text_of() -> Callable[[Any], str]:
    """The body without the form tokens, which differ in each answer."""

    def _text(response: Any) -> str:
        return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", response.content.decode())

    return _text


@pytest.fixture
def get(login: Login) -> Get:
    """`get(person, path)`: the page as that person sees it."""

    def _get(person: Person | None, path: str, **headers: str) -> Any:
        from django.test import Client

        return (login(person) if person else Client()).get(path, headers=headers)

    return _get
