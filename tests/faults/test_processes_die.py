"""The main job on real processes, with the sample service; and agents that go away."""

import signal
import socket
import time

import pytest

from deployments.domain.states import RolloutState
from deployments.models import Target
from deployments.services.rollouts import cancel_rollout
from tests.faults.fleet import Fleet
from tests.faults.stack import Stack
from tests.faults.world import ACTOR

pytestmark = pytest.mark.timeout(150)


def test_the_main_job_runs_on_real_processes(stack: Stack) -> None:
    """Deployed, updated, and put back when the new version is broken, while customers are served."""
    first = stack.ended(stack.deploy("1.0"))
    assert first.state == RolloutState.SUCCEEDED, first.outcome
    assert all('"1.0"' in answer for answer in stack.answers().values())

    broken = stack.ended(stack.deploy("1.2"))
    assert broken.state == RolloutState.ROLLED_BACK, broken.outcome
    assert "prices.csv" in broken.outcome, "the service says itself what ails it"
    assert all('"1.0"' in answer for answer in stack.answers().values())


def answers(fleet: Fleet) -> list[str]:
    """What each target of the first service says to a customer."""
    found = []
    for target in Target.objects.filter(service=fleet.world.services[0]):
        with socket.create_connection(("127.0.0.1", int(target.variables["port"])), timeout=3) as customer:
            found.append(customer.recv(100).decode())
    return found


def test_agents_that_are_killed_leave_their_services_running(fleet: Fleet) -> None:
    rollout = fleet.ended(fleet.deploy())
    for name in fleet.proxies:
        fleet.programs[f"agent-{name}"].kill()
    assert answers(fleet) == [rollout.release.version] * 4
    fleet.mend()
    after = fleet.ended(fleet.deploy())
    assert after.state == RolloutState.SUCCEEDED, after.outcome
    assert answers(fleet) == [after.release.version] * 4
    fleet.prove(rollout, after)


def test_a_cancelled_rollout_ends_while_an_agent_is_silent(fleet: Fleet) -> None:
    fleet.ended(fleet.deploy())
    agent = fleet.programs["agent-eu"]
    agent.send(signal.SIGSTOP)
    rollout = fleet.running(fleet.deploy())
    began = time.monotonic()
    cancel_rollout(actor=ACTOR, rollout_id=rollout.id, reason="enough")
    fleet.ended(rollout, seconds=10)
    assert time.monotonic() - began < 10
    assert rollout.state == RolloutState.CANCELLED
    agent.send(signal.SIGCONT)
    after = fleet.ended(fleet.deploy())
    assert after.state == RolloutState.SUCCEEDED, after.outcome
    fleet.prove(rollout, after)
