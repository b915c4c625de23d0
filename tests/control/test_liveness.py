"""Agents that vanish and come back: never assumed healthy, never assumed failed, seen at once on return."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.models import Entry
from deployments import protocol
from deployments.agents import connections, inbox, liveness, observations
from deployments.agents.observations import Observation
from deployments.models import Agent, Event, QueuedJob, Rollout, Service, Target, Task
from tests.engine.driver import Driver
from tests.fixtures import Person, World


def silence(*agents: Agent, heartbeats: float = 3.1) -> None:
    from django.conf import settings

    ago = timedelta(seconds=heartbeats * settings.SLIPWAY.heartbeat_seconds)
    Agent.objects.filter(pk__in=[agent.pk for agent in agents]).update(last_seen_at=timezone.now() - ago)


def healthy(target: Target) -> Observation:
    assert target.agent_id is not None
    report = protocol.TargetReport(target_id=str(target.id), status="running", health="healthy")
    return Observation(target.agent_id, report)


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    """A rollout of orders 1.0, which is being staged, on targets that are healthy."""
    rollout = driver.tick(driver.start(orders, "1.0"))
    observations.observe([healthy(target) for target in orders.targets.all()])
    QueuedJob.objects.all().delete()
    return rollout


def test_targets_of_an_agent_that_missed_three_heartbeats_are_unknown(
    catalog: World, orders: Service
) -> None:
    observations.observe([healthy(target) for target in orders.targets.all()])
    silence(catalog.agent, heartbeats=2.9)
    assert liveness.note_silence() == 0
    silence(catalog.agent)
    with CaptureQueriesContext(connection) as queries:
        assert liveness.note_silence() == 12
    assert len(queries) <= 6
    assert set(orders.targets.values_list("health", flat=True)) == {"unknown"}
    assert orders.targets.filter(reported__status="running").count() == 12, "what it said last is kept"
    assert liveness.note_silence() == 0


def test_other_agents_targets_stay_as_they_are(catalog: World, orders: Service) -> None:
    gone, first = catalog.agent_named("gone"), orders.targets.earliest("name")
    Target.objects.filter(pk=first.pk).update(agent=gone)
    observations.observe([healthy(target) for target in orders.targets.all()])
    silence(gone)
    assert liveness.note_silence() == 1
    assert orders.targets.get(health="unknown") == first


def test_silence_wakes_the_rollout_and_is_told_in_it(
    catalog: World, rollout: Rollout, django_capture_on_commit_callbacks: Any
) -> None:
    entries = Entry.objects.count()
    silence(catalog.agent)
    with django_capture_on_commit_callbacks(execute=True):
        liveness.note_silence()
    assert QueuedJob.objects.get().coalesce_key == f"tick:{rollout.id}"
    told = Event.objects.filter(rollout=rollout, kind="target.health")
    assert {(event.data["before"]["health"], event.data["after"]["health"]) for event in told} == {
        ("healthy", "unknown")
    }
    assert len(told) == 12
    assert Entry.objects.count() == entries, "silence is no action of anybody"


def test_a_rollout_that_waits_for_its_slot_is_not_woken(
    catalog: World, driver: Driver, orders: Service
) -> None:
    driver.start(orders, "1.0")
    observations.observe([healthy(target) for target in orders.targets.all()])
    QueuedJob.objects.all().delete()
    silence(catalog.agent)
    assert liveness.note_silence() == 12
    assert not QueuedJob.objects.exists()


def test_an_agent_that_comes_back_wakes_its_rollouts_when_it_connects(
    catalog: World, rollout: Rollout
) -> None:
    silence(catalog.agent)
    liveness.note_silence()
    QueuedJob.objects.all().delete()
    assert connections.connect(catalog.agent_named("idle").id, "web/1", hostname="", software="") == {}
    assert not QueuedJob.objects.exists()
    connections.connect(catalog.agent.id, "web/2", hostname="", software="")
    assert QueuedJob.objects.get().coalesce_key == f"tick:{rollout.id}"
    assert liveness.note_silence() == 0


def test_the_return_is_told_though_coming_up_in_a_rollout_is_not(
    catalog: World, orders: Service, rollout: Rollout, django_capture_on_commit_callbacks: Any
) -> None:
    targets = list(orders.targets.order_by("name")[:2])
    Target.objects.filter(pk__in=[one.pk for one in targets]).update(health="unknown")
    Target.objects.filter(pk=targets[0].pk).update(reported_at=timezone.now() - timedelta(hours=1))
    number = rollout.events.count()
    with django_capture_on_commit_callbacks(execute=True):
        observations.observe([healthy(target) for target in targets])
    told = Event.objects.filter(rollout=rollout)[number:]
    assert [event.data["name"] for event in told] == [targets[0].name]


def test_a_late_result_counts_only_with_the_matching_fence(driver: Driver, rollout: Rollout) -> None:
    task = driver.open_tasks(rollout)[0]
    late = [
        protocol.TaskReport(task_id=str(task.id), attempt=attempt, fence=fence, status="succeeded")
        for attempt, fence in ((task.attempt, task.fence - 1), (task.attempt + 1, task.fence))
    ]
    accepted = inbox.accept([(task.agent_id, report) for report in late])
    assert (accepted.new, accepted.refused) == (0, 2)
    assert len(accepted.acks) == 2, "the agent need not repeat it for ever"
    driver.tick(rollout)
    assert Task.objects.get(pk=task.pk).state == "dispatched"
    driver.report(task)
    driver.tick(rollout)
    assert Task.objects.get(pk=task.pk).state == "succeeded"


# What several processes write at once.


@contextmanager
def elsewhere() -> Iterator[Any]:
    """A transaction of another process, which is given up at the end."""
    other = connection.copy()
    other.set_autocommit(False)
    try:
        with other.cursor() as cursor:
            yield cursor
        other.rollback()
    finally:
        other.close()


def lock(cursor: Any, agent: Agent, how: str = "") -> None:
    cursor.execute(f"SELECT FROM deployments_agent WHERE id = %s FOR NO KEY UPDATE {how}", [agent.pk])


@pytest.mark.django_db(transaction=True)
def test_a_heartbeat_waits_for_nobody(catalog: World) -> None:
    """Neither for an agent's row nor for a target's: whoever waits for nobody takes part in no deadlock."""
    agents = [catalog.agent_named(name) for name in "abc"]
    with elsewhere() as other:
        lock(other, agents[1])
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")
        observations.observe([], alive=[agent.id for agent in reversed(agents)])
        liveness.note_silence()
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")
    seen = Agent.objects.filter(last_seen_at__isnull=False, name__in="abc")
    assert set(seen.values_list("name", flat=True)) == {"a", "c"}


@pytest.mark.django_db(transaction=True)
def test_departures_lock_agents_in_the_order_of_their_ids(catalog: World) -> None:
    """While it waits for the first, the last is free: no two processes hold what the other wants."""
    first, last = sorted((catalog.agent_named("a"), catalog.agent_named("b")), key=lambda agent: agent.pk)
    Agent.objects.update(connected_to="web/1")

    def depart() -> None:
        try:
            connections.disconnect({last.pk: "web/1", first.pk: "web/1"})
        finally:
            connection.close()

    thread = threading.Thread(target=depart)
    with elsewhere() as other:
        lock(other, first)
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        for _ in range(1000):
            with connection.cursor() as cursor:
                cursor.execute(waits)
                if cursor.fetchone() == (1,):
                    break
        else:
            raise AssertionError("it does not wait for the first")
        lock(other, last, "NOWAIT")
    thread.join(10)
    assert set(Agent.objects.filter(name__in="ab").values_list("connected_to", flat=True)) == {""}
