"""The control plane is replaced in the middle of a rollout, process by process: nobody notices."""

import socket
import threading
import time

import pytest

from deployments.models import RolloutTarget, Target, Task
from portal.local.ports import free_port
from tests.faults import invariants
from tests.faults.fleet import Fleet
from tests.faults.points import names
from tests.faults.stack import eventually

pytestmark = pytest.mark.timeout(200)


class Customers:
    """Ask every target again and again; how often nobody answered, for each."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.failures = dict.fromkeys(ports, 0)
        self.answers = dict.fromkeys(ports, 0)
        self._ports = ports
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for name, port in self._ports.items():
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=2) as customer:
                        answered = bool(customer.recv(100))
                except OSError:
                    answered = False
                self.answers[name] += answered
                self.failures[name] += not answered

    def leave(self) -> None:
        self._stop.set()
        self._thread.join()


def test_an_upgrade_in_the_middle_of_a_rollout_interrupts_nothing(fleet: Fleet) -> None:
    """Old and new processes side by side, then the new ones alone; no task fails, or is given twice."""
    fleet.ended(fleet.deploy())
    other = fleet.ended(fleet.deploy(1))
    bystanders = Target.objects.filter(service=other.service)
    customers = Customers({target.name: int(target.variables["port"]) for target in bystanders})
    rollout = fleet.activating(fleet.deploy(batch=1, bake_seconds=4, activate_timeout_seconds=30))

    old = [name for kind in ("web", "worker", "clock") for name in names(fleet, kind)]
    ports = [free_port(), free_port()]
    new = [
        *(fleet.add(f"web-new-{port}", "manage.py", "web", "--port", str(port)) for port in ports),
        *(fleet.add(f"worker-new-{number}", "manage.py", "worker") for number in (1, 2)),
        fleet.add("clock-new", "manage.py", "clock"),
    ]
    for program in new:
        program.start()
    eventually(
        lambda: all(any(name == program.name for name, _, _ in fleet.points()) for program in new[2:4]),
        "the new workers work",
    )
    eventually(lambda: all(answers(port) for port in ports), "the new web processes answer")
    for proxy in fleet.proxies.values():
        proxy.upstreams = ports
    for name in old:
        fleet.programs.pop(name).stop()
    rollout.refresh_from_db()
    assert rollout.state == "running", "it was under way before, during and after"

    fleet.ended(rollout)
    customers.leave()
    assert rollout.state == "succeeded", rollout.outcome
    tasks = Task.objects.filter(rollout=rollout)
    assert set(tasks.values_list("state", flat=True)) == {"succeeded"}, invariants.describe(rollout)
    assert tasks.count() == 8, "one stage and one activation a target"
    assert not RolloutTarget.objects.filter(rollout=rollout).exclude(error="").exists()
    assert all(customers.answers.values())
    assert not any(customers.failures.values()), customers.failures
    fleet.prove(rollout, other)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        time.sleep(0.1)
        return False
    return True
