"""Reports to rows: what counts, what does not, and what it costs."""

from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments import protocol
from deployments.agents import inbox
from deployments.models import QueuedJob, Rollout, Service, Target, Task, TaskReport
from tests.engine.driver import Driver
from tests.fixtures import Person, World


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    rollout = driver.tick(driver.start(orders, "1.0"))
    QueuedJob.objects.all().delete()
    return rollout


def report(task: Task, status: Any = "succeeded", **more: Any) -> inbox.Report:
    said = protocol.TaskReport(task_id=str(task.id), attempt=task.attempt, fence=task.fence, status=status)
    return task.agent_id, msgspec.structs.replace(said, **more)


def test_reports_of_a_batch_cost_what_one_costs_and_wake_the_engine_once(rollout: Rollout) -> None:
    tasks = list(Task.objects.order_by("id"))
    costs = []
    for some in (tasks[:1], tasks[1:]):
        with CaptureQueriesContext(connection) as queries:
            accepted = inbox.accept([report(task) for task in some])
        costs.append(len(queries))
        assert (accepted.new, accepted.duplicates, accepted.refused) == (len(some), 0, 0)
        assert len(accepted.acks) == len(some)
    assert costs[0] == costs[1] <= 5
    assert QueuedJob.objects.get().coalesce_key == f"tick:{rollout.id}"


def test_a_report_said_twice_counts_once_and_is_acknowledged_twice(rollout: Rollout) -> None:
    said = report(Task.objects.earliest("id"))
    accepted = inbox.accept([said, said])
    assert (accepted.new, accepted.duplicates, len(accepted.acks)) == (1, 1, 2)
    QueuedJob.objects.all().delete()
    assert inbox.accept([said]).duplicates == 1
    assert TaskReport.objects.count() == 1
    assert not QueuedJob.objects.exists()


def test_accepted_and_succeeded_are_two_reports(rollout: Rollout) -> None:
    task = Task.objects.earliest("id")
    assert inbox.accept([report(task, "accepted"), report(task)]).new == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": 2},
        {"fence": 10**6},
        {"task_id": "01890000-0000-7000-8000-000000000000"},
        {"task_id": "task"},
        {"attempt": 10**9},
        {"attempt": -1},
        {"fence": 2**64},
    ],
)
def test_what_is_not_of_this_task_is_acknowledged_and_does_not_count(
    wrong: dict[str, Any], rollout: Rollout
) -> None:
    first, second = Task.objects.order_by("id")[:2]
    accepted = inbox.accept([report(first, **wrong), report(second)])
    assert (accepted.new, accepted.refused, len(accepted.acks)) == (1, 1, 2)
    assert TaskReport.objects.get().task_id == second.id


def test_another_agents_report_does_not_count(rollout: Rollout, world: World) -> None:
    _, said = report(Task.objects.earliest("id"))
    assert inbox.accept([(world.agent_named("other").id, said)]).refused == 1
    assert not TaskReport.objects.exists()


def test_texts_are_cut_to_what_a_row_holds(rollout: Rollout) -> None:
    task = Task.objects.earliest("id")
    lines = tuple(f"{number} {'x' * 2000}" for number in range(200))
    inbox.accept([report(task, "failed", code="c" * 200, message="m\0" * 3000, log_tail=lines)])
    stored = TaskReport.objects.get()
    assert (len(stored.code), len(stored.message)) == (64, 1000)
    assert "\0" not in stored.message
    assert len(stored.log_tail) == 50
    assert stored.log_tail[-1].startswith("199 ")
    assert max(map(len, stored.log_tail)) == 500


def test_what_runs_after_a_task_is_known_before_the_engine_looks(rollout: Rollout) -> None:
    task = Task.objects.earliest("id")
    state = protocol.TargetReport(target_id=str(task.target_id), status="running", health="healthy")
    inbox.accept([report(task, target=state)])
    target = Target.objects.get(pk=task.target_id)
    assert (target.health, target.reported["status"]) == ("healthy", "running")


def test_a_report_cannot_speak_for_another_agents_target(rollout: Rollout, world: World) -> None:
    task = Task.objects.earliest("id")
    foreign = Target.objects.exclude(pk=task.target_id).earliest("name")
    Target.objects.filter(pk=foreign.pk).update(agent=world.agent_named("other"))
    state = protocol.TargetReport(target_id=str(foreign.id), status="running", health="healthy")
    assert inbox.accept([report(task, target=state)]).new == 1
    assert Target.objects.get(pk=foreign.pk).health == "unknown"


def test_that_an_agent_has_begun_wakes_nobody_and_that_it_ended_does(rollout: Rollout) -> None:
    task = Task.objects.earliest("id")
    QueuedJob.objects.all().delete()
    inbox.accept([report(task, "accepted")])
    assert not QueuedJob.objects.exists()
    inbox.accept([report(task)])
    assert QueuedJob.objects.filter(coalesce_key=f"tick:{rollout.id}").count() == 1
