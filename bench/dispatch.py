"""From the report of a batch's last task to the first task of the next batch, as the agent sees both."""

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from bench import plane, world
from bench.agents import Seen, SimulatedAgent, enrol, serving
from bench.database import database
from bench.figures import Row, latency, number
from deployments import protocol

P = ParamSpec("P")
T = TypeVar("T")

MEDIAN_MS = 25.0
TARGETS, BATCHES = 100, 10
CONFIG = {"process": {"command": ["run"]}, "env": {"PORT": "${target.port}"}}


@dataclass(frozen=True)
class Handover:
    """Milliseconds on the way from one batch to the next, by the rows' own times."""

    report_written: float
    """Agent sends the report -> the web process inserts it."""
    engine_began: float
    """-> commit, job, worker: the tick that takes the report holds the rollout's lock."""
    task_taken: float
    """-> decided, written, committed, web process woken: it marks the first task as sent."""
    task_received: float
    """-> signed, committed and with the agent."""

    @property
    def whole(self) -> float:
        return sum(astuple(self))


def measure(handovers: int = 100) -> list[Row]:
    """Rollouts over 100 targets in ten batches, through real processes, until there are enough handovers.

    Once with tasks that take 30 to 60 ms; once with an agent that answers at once, so that all reports of
    a batch come together with what the engine makes of the first of them.
    """
    rollouts = -(-handovers // (BATCHES - 1))
    with (
        database(),
        tempfile.TemporaryDirectory(prefix="slipway-dispatch-") as folder,
        plane.control_plane(Path(folder)) as url,
    ):
        working = asyncio.run(run(url, rollouts, TARGETS, lambda: random.uniform(0.03, 0.06)))
        at_once = asyncio.run(run(url, rollouts, TARGETS, lambda: 0.0))
    return [
        *latency(
            "last report to next batch, tasks of 30 to 60 ms",
            [one.whole for one in working],
            median_most=MEDIAN_MS,
            note=steps(working),
        ),
        *latency(
            "last report to next batch, answers at once",
            [one.whole for one in at_once],
            median_most=MEDIAN_MS,
            note=steps(at_once),
        ),
    ]


def steps(handovers: list[Handover]) -> str:
    """Where the time goes, as medians of the four steps."""
    medians = [statistics.median(step) for step in zip(*map(astuple, handovers), strict=True)]
    names = ("report in", "to the engine", "tick to take", "to the agent")
    return ", ".join(f"{name} {number(median)}" for name, median in zip(names, medians, strict=True))


async def run(url: str, rollouts: int, targets: int, work_seconds: Callable[[], float]) -> list[Handover]:
    """The handovers of so many rollouts, after one that warms up."""
    made = await _apart(world.build, targets)
    name = made.service.name
    token = await _apart(world.join_token, made, name)
    agent = SimulatedAgent(url, await _apart(enrol, url, token, name), work_seconds)
    found: list[Handover] = []
    async with serving([agent]):
        for count in range(rollouts + 1):
            agent.seen = Seen()
            await _apart(_roll_out, made, f"1.{count}")
            assert not agent.seen.refused, "the agent said more than the control plane takes from one"
            await asyncio.sleep(4 * targets / protocol.MAX_MESSAGES_PER_SECOND)
            if count:
                found += await _apart(_handovers, agent.seen, max(1, targets // BATCHES))
    return found


async def _apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it in a thread, so that the agent goes on meanwhile, and leave no database connection there."""

    def call() -> T:
        from django.db import connections

        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


def _roll_out(made: world.World, version: str) -> None:
    release = world.release(made, version, world.imagined_artifact(), CONFIG)
    world.roll_out(made, release, f"{100 // BATCHES}%")


def _handovers(seen: Seen, size: int) -> list[Handover]:
    """Each activation that is the first of a batch, with the report that was the last of the one before."""
    received = [moment for moment in seen.received if isinstance(moment[1], protocol.Activate)]
    reported = [moment for moment in seen.reported if isinstance(moment[1], protocol.Activate)]
    return [_handover(reported[first - 1], received[first]) for first in range(size, len(received), size)]


def _handover(
    report: tuple[float, protocol.AnyInstruction], task: tuple[float, protocol.AnyInstruction]
) -> Handover:
    from deployments.models import Task, TaskReport

    written = TaskReport.objects.get(task_id=report[1].task_id, status="succeeded")
    sent_at = Task.objects.get(pk=task[1].task_id).sent_at.timestamp()
    times = (
        report[0], written.received_at.timestamp(), written.taken_at.timestamp(), sent_at, task[0],
    )  # fmt: skip
    return Handover(*((after - before) * 1000 for before, after in itertools.pairwise(times)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--handovers", type=int, default=100)
    for row in measure(parser.parse_args().handovers):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked} {row.met} {row.note}")


if __name__ == "__main__":
    main()
