"""Whoever dies, before or after whichever commit: it goes on, and nothing happens twice.

A sample of the points; `make torture` tries all that a rollout has.
"""

from itertools import zip_longest

import pytest

from tests.faults.fleet import Fleet
from tests.faults.points import CLAIM, Death, die_at

pytestmark = pytest.mark.timeout(200)

WORKER = [
    Death("worker", "after", CLAIM),
    Death("worker", "before", "deployments/engine/tick.py:_once", 2),
    Death("worker", "after", "deployments/engine/tick.py:_once", 3),
    Death("worker", "after", "deployments/broker.py:_execute_take"),
    Death("worker", "before", "deployments/broker.py:_execute_delete", 2),
]
WEB = [
    Death("web", "before", "deployments/agents/inbox.py:accept", 2),
    Death("web", "after", "deployments/agents/inbox.py:accept"),
    Death("web", "before", "deployments/agents/outbox.py:take"),
    Death("web", "after", "deployments/agents/outbox.py:take"),
]
AGENT = [
    Death("agent", "before", "journal:begin"),
    Death("agent", "after", "journal:begin", 2),
    Death("agent", "after", "process.json"),
    Death("agent", "before", "service"),
    Death("agent", "after", "service"),
    Death("agent", "before", "journal:end"),
    Death("agent", "after", "journal:end", 2),
]


@pytest.mark.parametrize(
    "deaths",
    [[death for death in some if death] for some in zip_longest(AGENT, WEB, WORKER)],
    ids=lambda deaths: ",".join(map(str, deaths)),
)
def test_a_death_at_a_commit_delays_and_changes_nothing(fleet: Fleet, deaths: list[Death]) -> None:
    rollout, missing = die_at(fleet, deaths)
    assert missing == []
    assert rollout.state == "succeeded", rollout.outcome
    fleet.prove(rollout)


def test_the_clock_dies_before_and_after_it_wakes_somebody(fleet: Fleet) -> None:
    for when in ("before", "after"):
        rollout, missing = die_at(
            fleet, [Death("clock", when, "deployments/broker.py:enqueue")], bake_seconds=1
        )
        assert missing == []
        assert rollout.state == "succeeded", rollout.outcome
        fleet.prove(rollout)
