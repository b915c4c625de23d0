"""Whatever process dies in the middle of a rollout, it ends as it should have, and nothing happens twice."""

import signal
import time
from collections import Counter

import pytest

from audit.models import Entry
from deployments.domain.states import TASK_OPEN, RolloutState
from deployments.models import Event, Rollout, Task
from deployments.services.rollouts import cancel_rollout
from tests.faults.stack import ACTOR, Stack, eventually

pytestmark = pytest.mark.timeout(150)


def check_invariants(rollout: Rollout) -> None:
    """What must hold of every rollout that has ended, whatever happened on the way."""
    numbers = list(Event.objects.filter(rollout=rollout).values_list("number", flat=True))
    assert numbers == list(range(1, rollout.event_count + 1)), "events are numbered without gaps"
    assert not Task.objects.filter(rollout=rollout, state__in=TASK_OPEN).exists(), "no task is left open"
    assert rollout.lease_owner == ""
    moves = [
        (event.data["before"]["state"], event.data["after"]["state"])
        for event in Event.objects.filter(rollout=rollout, kind="rollout.state")
    ]
    assert [before for before, _ in moves[1:]] == [after for _, after in moves[:-1]], "no move is missing"
    targets = Counter(
        event.data["id"]
        for event in Event.objects.filter(rollout=rollout, kind="target.state")
        if event.data["after"]["state"] == "healthy"
    )
    assert set(targets.values()) <= {1}, "no target became healthy twice"
    audited = Entry.objects.filter(verb__startswith="target.").count()
    seen = Event.objects.filter(kind="target.state").count()
    assert audited == seen, "every transition has its audit entry"


def test_the_main_job_runs_on_real_processes(stack: Stack) -> None:
    """Deployed, updated, and put back when the new version is broken, while customers are served."""
    first = stack.ended(stack.deploy("1.0"))
    assert first.state == RolloutState.SUCCEEDED, first.outcome
    assert all('"1.0"' in answer for answer in stack.answers().values())

    broken = stack.ended(stack.deploy("1.2"))
    assert broken.state == RolloutState.ROLLED_BACK, broken.outcome
    assert "prices.csv" in broken.outcome, "the service says itself what ails it"
    assert all('"1.0"' in answer for answer in stack.answers().values())
    check_invariants(first)
    check_invariants(broken)


@pytest.mark.parametrize("victim", ["web", "worker", "clock", "agent-eu"])
def test_a_process_that_is_killed_delays_and_changes_nothing(stack: Stack, victim: str) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))
    rollout = stack.deploy("1.1", bake_seconds=1)
    stack.wait_for(
        rollout, lambda r: r.batches.filter(state="succeeded").exists(), "the first batch succeeds"
    )
    program = next(program for program in stack.programs if program.name == victim)
    program.kill()
    program.start()
    stack.ended(rollout)
    assert rollout.state == RolloutState.SUCCEEDED, rollout.outcome
    assert all('"1.1"' in answer for answer in stack.answers().values())
    assert Task.objects.filter(rollout=rollout).count() == 8, "one stage and one activation a target"
    check_invariants(rollout)


def test_an_agent_that_is_killed_leaves_its_services_running(stack: Stack) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))
    stack.agents["eu"].kill()
    assert all('"1.0"' in answer for answer in stack.answers().values())
    stack.agents["eu"].start()
    assert stack.ended(stack.deploy("1.1")).state == RolloutState.SUCCEEDED
    assert all('"1.1"' in answer for answer in stack.answers().values())


def test_a_worker_that_sleeps_past_its_lease_is_not_missed(stack: Stack) -> None:
    """Another worker takes over; the sleeper wakes to find that its word no longer counts."""
    second = stack.twin(stack.worker)
    stack.ended(stack.deploy("1.0", batch="100%"))
    second.start()
    try:
        rollout = stack.deploy("1.1", bake_seconds=1)
        stack.wait_for(rollout, lambda r: r.state == "running", "it runs")
        stack.worker.send(signal.SIGSTOP)
        stack.ended(rollout)
        stack.worker.send(signal.SIGCONT)
        assert rollout.state == RolloutState.SUCCEEDED, rollout.outcome
        check_invariants(rollout)
    finally:
        second.stop()


def test_a_cancelled_rollout_ends_while_an_agent_is_silent(stack: Stack) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))
    stack.agents["eu"].send(signal.SIGSTOP)
    rollout = stack.deploy("1.1")
    stack.wait_for(rollout, lambda r: r.state == "running", "it runs")
    began = time.monotonic()
    cancel_rollout(actor=ACTOR, rollout_id=rollout.id, reason="enough")
    stack.ended(rollout, seconds=10)
    assert time.monotonic() - began < 10
    assert rollout.state == RolloutState.CANCELLED
    stack.agents["eu"].send(signal.SIGCONT)
    eventually(
        lambda: stack.ended(stack.deploy("1.1")).state == RolloutState.SUCCEEDED, "the next one succeeds"
    )
