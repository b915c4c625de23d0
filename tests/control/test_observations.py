"""Heartbeats, output and liveness: many at a time, only of an agent's own targets."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.models import Entry
from deployments import protocol
from deployments.agents import connections, logs, observations
from deployments.agents.observations import Observation
from deployments.models import Agent, Event, LogChunk, QueuedJob, Service, Target
from tests.engine.driver import Driver
from tests.fixtures import Person, World


def seen(target: Target, health: Any = "healthy", status: Any = "running", release: str = "") -> Observation:
    assert target.agent_id is not None
    report = protocol.TargetReport(target_id=str(target.id), status=status, health=health, release_id=release)
    return Observation(target.agent_id, report)


def many_agents(world: World, service: Service, count: int) -> list[Target]:
    agents = Agent.objects.bulk_create(
        Agent(name=f"{service.name}-agent-{number}", public_key=b"k" * 32) for number in range(count)
    )
    (region,) = world.regions(["eu"])
    return Target.objects.bulk_create(
        Target(service=service, region=region, name=f"many-{number}", agent=agent)
        for number, agent in enumerate(agents)
    )


def test_heartbeats_of_a_thousand_agents_cost_what_one_costs(world: World) -> None:
    costs = []
    for name, count in (("one", 1), ("thousand", 1000)):
        targets = many_agents(world, world.service(name, targets=0), count)
        with CaptureQueriesContext(connection) as queries:
            agents = {target.agent_id for target in targets if target.agent_id}
            assert len(observations.observe([seen(target) for target in targets], agents).written) == count
        assert [query["sql"].split()[0] for query in queries].count("WITH") == 1, "all is written in one"
        costs.append(len(queries))
    assert costs[0] == costs[1] <= 6
    assert Target.objects.filter(health="healthy", reported__status="running").count() == 1001
    assert Agent.objects.filter(last_seen_at__isnull=False).count() >= 1001


def test_an_agent_speaks_for_its_own_targets_only(catalog: World, orders: Service) -> None:
    target = orders.targets.earliest("name")
    stranger = catalog.agent_named("stranger")
    said = Observation(stranger.id, seen(target).target)
    assert observations.observe([seen(target, "unhealthy"), said]).written == {target.id}
    target.refresh_from_db()
    assert target.health == "unhealthy"


def test_an_older_word_does_not_replace_a_newer_one(catalog: World, orders: Service) -> None:
    target = orders.targets.earliest("name")

    def health_after(*said: Observation) -> str:
        observations.observe(said)
        target.refresh_from_db()
        return target.health

    now, old = seen(target), msgspec.structs.replace(seen(target, "unhealthy", "crashed"), age_seconds=2.0)
    assert health_after(old) == "unhealthy"
    assert target.reported_at < timezone.now() - timedelta(seconds=1)
    assert health_after(now, old) == "healthy"
    assert health_after(old) == "healthy"
    assert target.reported["status"] == "running"


def test_a_clock_that_was_set_back_holds_no_observation_up(catalog: World, orders: Service) -> None:
    target = orders.targets.earliest("name")
    Target.objects.filter(pk=target.pk).update(reported_at=timezone.now() + timedelta(hours=1))
    assert observations.observe([seen(target)]).written == {target.id}
    target.refresh_from_db()
    assert target.reported_at < timezone.now()


def test_the_last_word_counts(catalog: World, orders: Service) -> None:
    target = orders.targets.earliest("name")
    observations.observe([seen(target, "unhealthy"), seen(target, "healthy")])
    target.refresh_from_db()
    assert target.health == "healthy"


@pytest.mark.parametrize(
    "change", [{"health": "unhealthy"}, {"status": "crashed"}, {"release": "another"}], ids=str
)
def test_a_change_wakes_the_rollout_that_the_target_is_in(
    change: dict[str, Any],
    catalog: World,
    orders: Service,
    owner: Person,
    django_capture_on_commit_callbacks: Any,
) -> None:
    driver = Driver(catalog, owner)
    rollout = driver.tick(driver.start(orders, "1.0"))
    target = orders.targets.earliest("name")
    observations.observe([seen(target)])
    QueuedJob.objects.all().delete()
    entries, number = Entry.objects.count(), Event.objects.filter(rollout=rollout).count()

    observations.observe([seen(target)])
    assert not QueuedJob.objects.exists()

    with django_capture_on_commit_callbacks(execute=True):
        observations.observe([seen(target, **change)])
    assert QueuedJob.objects.get().coalesce_key == f"tick:{rollout.id}"
    told = Event.objects.filter(rollout=rollout)[number:]
    kinds = {"health": ["target.health"], "status": [], "release": ["target.drift"]}
    assert [event.kind for event in told] == kinds[next(iter(change))]
    assert Entry.objects.count() == entries + ("release" in change), "drift alone is evidence"


def test_a_change_outside_a_rollout_wakes_nobody(catalog: World, orders: Service) -> None:
    observations.observe([seen(orders.targets.earliest("name"))])
    assert not QueuedJob.objects.exists()


def test_nonsense_is_left_out(catalog: World, orders: Service) -> None:
    target = orders.targets.earliest("name")
    nonsense = protocol.TargetReport(target_id="x\0", release_id="\0" * 1000)
    long = protocol.TargetReport(target_id=str(target.id), release_id="r\0" * 1000, status="running")
    written = observations.observe(
        [Observation(catalog.agent.id, nonsense), Observation(catalog.agent.id, long)]
    ).written
    assert written == {target.id}
    target.refresh_from_db()
    assert len(target.reported["release_id"]) <= 36


def test_output_beyond_the_newest_chunks_is_pruned(catalog: World, orders: Service) -> None:
    first, second = orders.targets.order_by("name")[:2]
    chunks = [(catalog.agent.id, protocol.LogChunk(target_id=str(first.id), text=f"{n}")) for n in range(230)]
    kept = (catalog.agent.id, protocol.LogChunk(target_id=str(second.id), text="kept", dropped=-1))
    with CaptureQueriesContext(connection) as queries:
        assert logs.append([*chunks, kept]) == {first.id, second.id}
    assert len(queries) <= 4
    logs.prune([first.id])
    texts = list(LogChunk.objects.filter(target=first).values_list("text", flat=True))
    assert texts == [str(number) for number in range(30, 230)]
    assert LogChunk.objects.get(target=second).dropped == 0


def test_a_connection_ends_only_where_it_is_the_last(world: World) -> None:
    agent: UUID = world.agent.id
    for place in ("web/1", "web/2"):
        assert connections.connect(agent, place, hostname="h\0", software="1") == {}
    connections.disconnect({agent: "web/1"})
    world.agent.refresh_from_db()
    assert world.agent.connected_to == "web/2"
    assert connections.lost({agent: "web/1"}) == {agent: False}
    assert connections.lost({agent: "web/2"}) == {}
    assert (connections.count_held("web"), connections.count_held("we")) == (1, 0)
    Agent.objects.filter(pk=agent).update(revoked_at=timezone.now())
    assert connections.lost({agent: "web/2"}) == {agent: True}
    assert connections.count_held("web") == 0
    assert connections.connect(agent, "web/3", hostname="", software="") is None
    assert connections.key_of(agent) is None
