"""Many rollouts at once: 10, 50 and 200 of ten targets each, over 2,000 simulated agents that answer at once.

    python -m bench.scale [--services 200] [--rounds 3]

Rollouts are planned in one transaction; the clock begins with its commit, so that what is measured is the
engine and not the command. Each has two batches, so twenty tasks. A tick is one claim of a rollout; claims
are counted by the sequence that fences come from. CPU is that of whole process trees, from /proc.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import plane, usage, world
from bench.crowd import Crowd, Lived, allow_files, crowd
from bench.database import database
from bench.figures import Row, latency, number, ratio, timed

TARGETS = 10
SIZES = (10, 50, 200)
LIMIT = 20
"""Of the environment, in the run with a queue."""
SECONDS = 900
CONFIG = {"process": {"command": ["run"]}, "env": {"PORT": "${target.port}"}}


@dataclass(frozen=True)
class Run:
    """So many rollouts from the commit that started them to the end of the last."""

    rollouts: int
    seconds: float
    waits: list[float]
    """Milliseconds from the start to running, of each rollout."""
    tasks: int
    ticks: int
    cpu: dict[str, float]
    """Seconds, by process."""

    @property
    def tasks_per_second(self) -> float:
        return self.tasks / self.seconds

    def cpu_ms_a_tick(self, process: str) -> float:
        return self.cpu[process] * 1000 / self.ticks


@dataclass
class Stage:
    """The running control plane, and services whose agents are connected."""

    started: plane.Plane
    services: Sequence[world.World]
    agents: Crowd
    version: int = 0

    def run(self, count: int) -> Run:
        """Roll a new version out to the first `count` services; raises when one does not succeed."""
        self.version += 1
        pids = self.started.pids | {"database": usage.database_pid()}
        ids, began = start(self.services[:count], f"1.{self.version}")
        ticks, before = fences(), usage.Cpu.of(pids)
        finish(ids, self.started)
        cpu, ticks = usage.Cpu.of(pids).since(before), fences() - ticks
        rows = rows_of(ids)
        return Run(
            rollouts=count,
            seconds=max(world.seconds_between(began, ended) for _, ended in rows),
            waits=[world.seconds_between(began, running) * 1000 for running, _ in rows],
            tasks=check(ids, self.agents.count()),
            ticks=ticks,
            cpu=cpu,
        )


@contextlib.contextmanager
def stage(services: int, *, targets: int = TARGETS) -> Iterator[Stage]:
    """Needs `bench.database`."""
    allow_files(services * targets)
    made, credentials = world.fleet(services, targets)
    with (
        tempfile.TemporaryDirectory(prefix="slipway-scale-") as folder,
        plane.processes(Path(folder)) as started,
        crowd(started.url, credentials) as agents,
    ):
        yield Stage(started, made, agents)


def start(services: Sequence[world.World], version: str) -> tuple[list[Any], datetime]:
    """Start a rollout of each in one transaction; returns their ids and the time just before its commit."""
    from django.db import connection, transaction

    from deployments.services.rollouts import start_rollout

    artifact = world.imagined_artifact()
    releases = [world.release(one, version, artifact, CONFIG) for one in services]
    with transaction.atomic():
        ids = [
            start_rollout(
                actor=one.actor,
                service_id=one.service.id,
                environment_id=one.environment.id,
                release_id=release.id,
                strategy={"batch": "50%"},
            ).id
            for one, release in zip(services, releases, strict=True)
        ]
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            (began,) = cursor.fetchone()
    return ids, began


def finish(ids: Sequence[Any], started: plane.Plane) -> None:
    """Return when all are at their end; raises unless each succeeded."""
    from deployments.models import Rollout

    deadline = time.monotonic() + SECONDS
    while left := Rollout.objects.filter(id__in=ids, finished_at=None).count():
        time.sleep(0.25)
        for process in (started.web, started.worker, started.clock):
            process.require()
        if time.monotonic() > deadline:
            some = Rollout.objects.filter(id__in=ids, finished_at=None).values_list("state", "waiting_on")
            raise TimeoutError(f"{left} rollouts are not at their end: {list(some[:3])}")
    bad = Rollout.objects.filter(id__in=ids).exclude(state="succeeded").values_list("state", "outcome")
    if bad:
        raise RuntimeError(f"{len(bad)} rollouts did not succeed: {list(bad[:3])}")


def rows_of(ids: Sequence[Any]) -> list[tuple[datetime, datetime]]:
    from deployments.models import Rollout

    rows = Rollout.objects.filter(id__in=ids).values_list("started_at", "finished_at")
    return [(running, ended) for running, ended in rows if running and ended]


def fences() -> int:
    """Leases taken so far, which is ticks."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM slipway_fence")
        return int(cursor.fetchone()[0])


def check(ids: Sequence[Any], lived: Lived) -> int:
    """Each target was staged and activated once, and no agent got a task twice; returns how many tasks."""
    from deployments.models import Task

    tasks = [str(one) for one in Task.objects.filter(rollout_id__in=ids).values_list("id", flat=True)]
    kinds = Task.objects.filter(rollout_id__in=ids).values("progress_id", "kind").distinct().count()
    if kinds != len(tasks):
        raise RuntimeError(f"{len(tasks) - kinds} tasks were made twice")
    times = {lived.given[task] for task in tasks}
    if times != {1} or lived.lost or lived.refused:
        raise RuntimeError(
            f"tasks were received {sorted(times)} times, {lived.refused} messages refused, {lived.lost[:3]}"
        )
    return len(tasks)


def measure(services: int = max(SIZES), rounds: int = 3) -> list[Row]:
    sizes = [size for size in SIZES if size < services] + [services]
    os.environ["SLIPWAY_MAX_ACTIVE_ROLLOUTS"] = str(services)
    with database(), stage(services) as ready:
        ready.run(sizes[0])  # what is done once
        runs = {size: [ready.run(size) for _ in range(rounds)] for size in sizes}
        set_limit(ready.services[0], LIMIT)
        queued = ready.run(services)
    found = [row for size in sizes for row in rows(runs[size])]
    first, last = (median(runs[size]).seconds / size for size in (sizes[0], sizes[-1]))
    found.append(
        ratio(f"time of a rollout among {sizes[-1]} to one among {sizes[0]}", last / first, note="1: linear")
    )
    found += rows([queued], f", {LIMIT} at a time")
    return found


def set_limit(one: world.World, limit: int | None) -> None:
    one.environment.max_active = limit
    one.environment.save(update_fields=["max_active"])


def median(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def rows(runs: Sequence[Run], how: str = "") -> list[Row]:
    middle = median(runs)
    what = f"{middle.rollouts} rollouts{how}"
    return [
        timed(f"{what}: until all succeeded", [run.seconds for run in runs], "s"),
        Row(
            what=f"{what}: tasks completed",
            median=f"{number(middle.tasks_per_second)}/s",
            note=f"{middle.tasks} tasks, none given twice",
        ),
        timed(
            f"{what}: CPU of a tick, worker",
            [run.cpu_ms_a_tick("worker") for run in runs],
            "ms",
            note=f"database {number(middle.cpu_ms_a_tick('database'))} ms, web "
            f"{number(middle.cpu_ms_a_tick('web'))} ms; {middle.ticks / middle.rollouts:.1f} ticks a rollout",
        ),
        *latency(f"{what}: start to running", middle.waits),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=max(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for row in measure(options.services, options.rounds):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked} {row.met} {row.note}", flush=True)


if __name__ == "__main__":
    main()
