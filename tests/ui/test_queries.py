"""A page costs the same number of queries however much it shows."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments.models import Rollout
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World

MOST = {"overview": 14, "rollout": 20, "status": 18, "service": 22, "rollouts": 10, "agents": 6}


@pytest.mark.parametrize("page", MOST)
def test_the_number_of_queries_is_bounded_and_does_not_grow(
    page: str, login: Login, owner: Person, world: World
) -> None:
    client = login(owner)
    few, many = 4, 40
    counts = []
    for number, name in ((few, "small"), (many, "large")):
        driver = Driver(world, owner)
        service = world.service(name, targets=number)
        driver.deployed(service, "1.0")
        rollout = driver.start(service, "1.1")
        driver.tick(rollout)
        driver.answer(rollout)
        for extra in range(number // 4):
            world.service(f"{name}-{extra}", targets=1)
        paths = {
            "overview": "/",
            "rollout": f"/rollouts/{rollout.id}/",
            "status": f"/rollouts/{rollout.id}/status/",
            "service": f"/services/{name}/",
            "rollouts": "/rollouts/",
            "agents": "/agents/",
        }
        client.get(paths[page])
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(paths[page]).status_code == 200
        counts.append(len(captured))
    assert counts[0] == counts[1]
    assert counts[1] <= MOST[page]
    assert Rollout.objects.count() == 4
