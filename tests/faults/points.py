"""Deaths at commit points: armed before a rollout, and the process started again when it has come to it."""

import time
from dataclasses import dataclass
from typing import Any

from deployments.domain.states import TERMINAL
from deployments.models import Rollout
from tests.faults.fleet import Fleet, through

CLAIM = "deployments/engine/lease.py:claim"
PATIENCE_SECONDS = 90


@dataclass(frozen=True)
class Death:
    kind: str
    """worker, web, clock or agent: the first of its processes that comes there dies."""
    when: str
    place: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.when} {self.place} #{self.number}"


def names(fleet: Fleet, kind: str) -> list[str]:
    return [name for name in fleet.programs if name.split("-")[0] == kind]


def die_at(fleet: Fleet, deaths: list[Death], **strategy: Any) -> tuple[Rollout, list[Death]]:
    """Run one rollout in which these deaths happen, of each kind one, each process started again at once.

    Returns the rollout at its end, and the deaths that it did not come to.
    """
    missing = {death.kind: death for death in deaths}
    for death in deaths:
        for name in names(fleet, death.kind):
            fleet.arm(name, death.when, death.place, death.number)
    rollout = through(lambda: fleet.deploy(**strategy))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while rollout.state not in TERMINAL and time.monotonic() < deadline:
        for program in fleet.programs.values():
            if not program.runs:
                # One process dies of each kind, or they would all be away at once.
                kind = program.name.split("-")[0]
                missing.pop(kind, None)
                for name in names(fleet, kind):
                    fleet.disarm(name)
                program.start()
        time.sleep(0.02)
        rollout.refresh_from_db()
    for name in fleet.programs:
        fleet.disarm(name)
    fleet.mend()
    return fleet.ended(rollout, seconds=1), list(missing.values())


def deaths_of_a_rollout(fleet: Fleet) -> list[Death]:
    """Every point that one quiet rollout of four targets passes, by recording one."""
    skip = (fleet.effects / "points").stat().st_size
    fleet.ended(fleet.deploy(bake_seconds=1))
    passed: dict[tuple[str, str, str], int] = {}
    for (name, when, place), count in fleet.points(skip).items():
        # A process of a kind passes at most so many; which of them does is chance.
        key = (name.split("-")[0], when, place)
        passed[key] = max(passed.get(key, 0), count)
    # A queue that is looked at and found empty changes nothing, the tenth time no more than the first.
    most = {"deployments/broker.py:_execute_take": 3}
    return [
        Death(kind, when, place, number)
        for (kind, when, place), count in sorted(passed.items())
        for number in range(1, min(count, most.get(place, count)) + 1)
    ]
