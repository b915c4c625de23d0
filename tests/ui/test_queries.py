"""A page costs the same number of queries however much it shows."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments.models import Agent, Rollout
from portal.accounts.models import User
from portal.ui.urls import urlpatterns
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World

MOST = {
    "overview": 12,
    "service": 24,
    "deploy": 16,
    "release": 16,
    "queue": 16,
    "rollouts": 8,
    "rollout": 20,
    "rollout-status": 16,
    "rollout-failures": 12,
    "rollout-events": 8,
    "target": 12,
    "target-log": 8,
    "target-drift": 8,
    "environments": 8,
    "environment": 14,
    "agents": 6,
    "audit": 6,
    "faults": 6,
}
"""By the name of the address; with the session and the person, which cost two."""
FORMS = {
    "login",
    "logout",
    "theme",
    "steer",
    "steer-choice",
    "hold-release",
    "lift-hold",
    "release-fault",
}
"""Addresses that show no rows, or choices of which there are so many at most."""


def fill(world: World, owner: Person, name: str, number: int) -> dict[str, str]:
    """So many services, agents and rollouts, and one rollout to so many targets; returns the addresses."""
    driver = Driver(world, owner)
    for turn in range(number):
        Agent.objects.create(name=f"{name}-{turn}", public_key=b"k" * 32)
        agent = Agent.objects.get(name=f"{name}-{turn}")
        service = world.service(f"{name}-{turn}", targets=1 if turn else number, agent=agent)
        driver.deployed(service, "1.0")
        rollout = driver.start(service, "1.1", on_task_failure="pause")
        driver.tick(rollout)
        driver.answer(rollout)
        driver.answer(rollout, failing=[f"{name}-{turn}-01"])
    first = Rollout.objects.filter(service__name=f"{name}-0").latest("id")
    target = first.service.targets.order_by("name")[0]
    pages = f"/rollouts/{first.id}/"
    return {
        "overview": "/",
        "service": f"/services/{name}-0/",
        "deploy": f"/services/{name}-0/deploy/",
        "release": f"/releases/{first.service.releases.get(version='1.0').id}/",
        "queue": "/queue/",
        "rollouts": "/rollouts/",
        "rollout": pages,
        "rollout-status": f"{pages}status/",
        "rollout-failures": f"{pages}failures/",
        "rollout-events": f"{pages}events/",
        "target": f"/targets/{target.id}/",
        "target-log": f"/targets/{target.id}/log/",
        "target-drift": f"/targets/{target.id}/drift/",
        "environments": "/environments/",
        "environment": "/environments/prod/",
        "agents": "/agents/",
        "audit": "/audit/",
        "faults": "/faults/",
    }


def test_every_page_is_counted_here() -> None:
    assert {pattern.name for pattern in urlpatterns} == MOST.keys() | FORMS


@pytest.mark.parametrize("sees_all", [False, True], ids=["owner", "administrator"])
def test_the_number_of_queries_is_bounded_and_does_not_grow(
    sees_all: bool, login: Login, owner: Person, world: World
) -> None:
    client = login(owner)
    User.objects.filter(pk=owner.user.pk).update(is_superuser=sees_all)
    counts: list[dict[str, int]] = []
    sizes: list[int] = []
    for name, number in (("small", 1), ("large", 30)):
        pages = fill(world, owner, name, number)
        counts.append({})
        for page, path in pages.items():
            if page in ("audit", "faults") and not sees_all:
                continue
            client.get(path)
            with CaptureQueriesContext(connection) as captured:
                response = client.get(path)
            assert response.status_code == 200, path
            counts[-1][page] = len(captured)
        sizes.append(len(client.get(pages["rollout"]).content) + len(client.get("/").content))
    assert sizes[1] > 3 * sizes[0], "the large one shows more"
    assert counts[0] == counts[1]
    assert {page: number for page, number in counts[1].items() if number > MOST[page]} == {}
