"""What people change by hand on targets is seen soon, and put right by a rollout; all processes are real."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from audit.models import Entry
from deployments.domain.states import RolloutState
from deployments.models import Environment, Rollout, Target
from deployments.services.repairs import SETTLE_SECONDS
from tests.faults.stack import Stack, eventually

pytestmark = pytest.mark.timeout(240)


class Host:
    """One target as somebody sees it who is logged in on its machine."""

    def __init__(self, stack: Stack, target: Target) -> None:
        self.target = target
        self.home = stack.directory / f"agent-{target.region.name}" / "targets" / str(target.id)
        self.program = self.home / "current" / "orders.py"

    def fresh(self) -> Target:
        self.target.refresh_from_db()
        return self.target

    def drifts(self, cause: str) -> Target:
        eventually(lambda: self.fresh().drift == cause, f"{self.target} shows {cause!r}", seconds=10)
        return self.target

    def edit(self) -> None:
        served = self.program.resolve()
        served.chmod(0o644)
        served.write_text(served.read_text() + "\n# quick fix\n")

    def switch(self) -> None:
        link = self.home / "current"
        link.unlink()
        link.symlink_to(Path("releases") / "somewhere-else")


def hosts(stack: Stack) -> list[Host]:
    targets = Target.objects.filter(service=stack.service).select_related("region").order_by("name")
    return [Host(stack, target) for target in targets]


def repaired(stack: Stack, known: int) -> Rollout:
    repairs = Rollout.objects.filter(kind=Rollout.Kind.REPAIR).order_by("id")
    eventually(lambda: repairs.count() > known, "a repair starts", seconds=30)
    rollout = repairs[known]
    assert stack.ended(rollout).state == RolloutState.SUCCEEDED, rollout.outcome
    return rollout


def test_what_was_changed_by_hand_is_shown_and_repaired_where_that_is_wanted(stack: Stack) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))
    eu, _, us, _ = hosts(stack)
    clean = eu.program.read_text()
    eventually(lambda: eu.fresh().reported.get("tree_digest"), "the agents have looked around")
    right = eu.target.reported["tree_digest"]

    eu.edit()
    seen = eu.drifts("files")
    assert seen.reported["modified"] == ["orders.py"]
    assert seen.reported["tree_digest"] != right
    us.switch()
    us.drifts("release")
    settled = timezone.now() + timedelta(seconds=SETTLE_SECONDS)
    eventually(lambda: timezone.now() > settled, "nobody is at work any more")
    assert not Rollout.objects.filter(kind=Rollout.Kind.REPAIR).exists(), "it is only shown here"

    pids = {host.target.id: host.fresh().reported["pid"] for host in hosts(stack)}
    Environment.objects.update(on_drift=Environment.OnDrift.REPAIR)
    rollout = repaired(stack, 0)
    assert eu.program.read_text() == clean
    assert rollout.targets.count() == 3, "both that share the edited file, and the one that was switched"
    for host in hosts(stack):
        host.drifts("")
    eventually(lambda: eu.fresh().reported.get("tree_digest") == right, "the tree is as it was")
    for host in hosts(stack):
        was_repaired = rollout.targets.filter(target=host.target).exists()
        assert (host.target.reported["pid"] != pids[host.target.id]) is was_repaired
    assert all('"1.0"' in answer for answer in stack.answers().values())
    told = Entry.objects.filter(verb="target.drift", object_id=str(eu.target.id)).order_by("id")
    assert [entry.after for entry in told] == [{"drift": "files"}, {"drift": ""}]


def test_a_hand_killed_process_is_seen_though_the_agent_heals_it(stack: Stack) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))
    host = hosts(stack)[0]
    eventually(lambda: host.fresh().reported.get("pid"), "it runs")
    pid = host.target.reported["pid"]
    os.kill(pid, signal.SIGKILL)

    def healed() -> bool:
        reported = host.fresh().reported
        return reported.get("restarts") == 1 and reported.get("pid") not in (None, pid)

    eventually(healed, "it is told and healed", seconds=10)
    assert host.target.reported["ended"] == "was ended by SIGKILL"
    host.drifts("")


def test_an_agent_that_vanishes_leaves_its_targets_unknown_until_it_is_back(stack: Stack) -> None:
    stack.ended(stack.deploy("1.0", batch="100%"))

    def health(region: str) -> Callable[[], set[str]]:
        targets = Target.objects.filter(service=stack.service, region__name=region)
        return lambda: set(targets.values_list("health", flat=True))

    eventually(lambda: health("eu")() == health("us")() == {"healthy"}, "all are healthy")
    stack.agents["eu"].send(signal.SIGSTOP)
    eventually(lambda: health("eu")() == {"unknown"}, "three heartbeats were missed", seconds=15)
    assert health("us")() == {"healthy"}
    assert all('"1.0"' in answer for answer in stack.answers().values()), "they serve all the same"
    stack.agents["eu"].send(signal.SIGCONT)
    eventually(lambda: health("eu")() == {"healthy"}, "it is back")
