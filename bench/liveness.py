"""How soon a dead agent is known to be silent, and how soon the rollouts of a dead worker go on.

    python -m bench.liveness [--agents 100] [--kills 20]

Agents end at random moments, half of them with their connection, half without a word on it. A worker is
killed with all its processes (SIGKILL) while many small rollouts run, and started again at once; of the
rollouts whose lease it held the time runs until another worker takes them. The worker of another machine is
one whose host has another name: nobody here can tell that its process has ended, so its lease has to run
out.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException

from bench import plane, scale, usage, world
from bench.agents import Credential, SimulatedAgent
from bench.crowd import allow_files, crowd
from bench.database import database
from bench.figures import Row, met, number, percentile

AGENTS, KILLS, ROLLOUTS = 100, 20, 200
MOST_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05
HEALTHY_SECONDS = 30.0
ELSEWHERE = ("unshare", "-U", "-r", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')

UNKNOWN = """
    SELECT agent_id::text, extract(epoch FROM clock_timestamp())::float
    FROM deployments_target WHERE agent_id = ANY(%s) AND health = 'unknown'
"""
HEALTHY = "SELECT count(*) FROM deployments_target WHERE agent_id = ANY(%s) AND health = 'healthy'"
HELD = "SELECT id, fence, split_part(lease_owner, ':', 2) FROM deployments_rollout WHERE lease_owner <> ''"
MOVING = "SELECT count(*) FROM deployments_rollout WHERE id = ANY(%s::uuid[]) AND finished_at IS NULL"
FENCES = "SELECT id, fence FROM deployments_rollout WHERE id = ANY(%s)"


def dead_agents(count: int = AGENTS) -> list[float]:
    """Seconds from the death of each agent to `unknown`; needs `bench.database`."""
    _, credentials = world.fleet(1, count)
    with (
        tempfile.TemporaryDirectory(prefix="slipway-liveness-") as folder,
        plane.processes(Path(folder)) as started,
    ):
        return asyncio.run(_die(started.url, credentials))


async def _die(url: str, credentials: Sequence[Credential]) -> list[float]:
    agents = [SimulatedAgent(url, one, lambda: 0.0, is_healthy=True) for one in credentials]
    runs = [asyncio.create_task(_live(agent)) for agent in agents]
    ids = [agent.id for agent in agents]
    deadline = time.monotonic() + HEALTHY_SECONDS
    while (await asyncio.to_thread(_apart, HEALTHY, ids))[0][0] < len(ids):
        if time.monotonic() > deadline:
            raise TimeoutError("the agents' targets do not become healthy")
        await asyncio.sleep(0.2)
    died: dict[str, float] = {}
    deaths = [asyncio.create_task(_end(agent, died)) for agent in agents]
    known: dict[str, float] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(known) < len(ids) and time.monotonic() < deadline:
        for agent_id, at in await asyncio.to_thread(_apart, UNKNOWN, ids):
            known.setdefault(agent_id, at)
        await asyncio.sleep(POLL_SECONDS)
    for agent in agents:
        agent.drop()
    for task in (*deaths, *runs):
        task.cancel()
    await asyncio.gather(*deaths, *runs, return_exceptions=True)
    return [known.get(agent_id, died[agent_id] + PATIENCE_SECONDS) - died[agent_id] for agent_id in ids]


async def _live(agent: SimulatedAgent) -> None:
    with contextlib.suppress(WebSocketException, OSError):
        await agent.run()


async def _end(agent: SimulatedAgent, died: dict[str, float]) -> None:
    await asyncio.sleep(random.uniform(0, 8))
    died[agent.id] = time.time()
    agent.is_mute = True
    if len(died) % 2:
        agent.drop()


def _apart(statement: str, values: Any) -> list[tuple[Any, ...]]:
    """As `_rows`, in a thread that may be another one the next time."""
    from django.db import connections

    try:
        return _rows(statement, values)
    finally:
        connections.close_all()


def _rows(statement: str, values: Any = None) -> list[tuple[Any, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, None if values is None else [values])
        return list(cursor.fetchall())


def killed_workers(kills: int = KILLS, rollouts: int = ROLLOUTS, *, elsewhere: bool = False) -> list[float]:
    """Seconds from the kill to the next tick, of each of some `kills` rollouts whose lease the worker held.

    Needs `bench.database`. Raises unless all rollouts succeed.
    """
    made, credentials = world.fleet(rollouts, 2)
    allow_files(len(credentials))
    found: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="slipway-liveness-") as folder,
        plane.processes(Path(folder)) as started,
        crowd(started.url, credentials),
    ):
        ids: list[Any] = []
        version = 0
        while len(found) < kills:
            with plane.running("second", _command(elsewhere), Path(folder), _environ()) as second:
                while not (held := _freeze(second)):
                    if not _rows(MOVING, ids)[0][0]:
                        scale.finish(ids, started)
                        version += 1
                        ids, _ = scale.start(made, f"1.{version}")
                    time.sleep(POLL_SECONDS)
                for pid in usage.tree(second.process.pid):
                    os.kill(pid, signal.SIGKILL)
                second.process.wait()
                found += _resumed(held)
        scale.finish(ids, started)
    return found


def _command(elsewhere: bool) -> list[str]:
    return [*ELSEWHERE, "elsewhere", *plane.manage("worker")] if elsewhere else plane.manage("worker")


def _environ() -> dict[str, str]:
    return os.environ | {"SLIPWAY_PROCESS": "worker"}


def _freeze(worker: plane.Running) -> dict[Any, int]:
    """Stop the worker where it stands, if it holds leases: rollout id -> fence. Otherwise let it go on."""
    worker.require()
    if not _leases(worker):
        return {}
    pids = list(usage.tree(worker.process.pid))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    held = _leases(worker)
    if not held:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return held


def _leases(worker: plane.Running) -> dict[Any, int]:
    pids = {str(pid) for pid in usage.tree(worker.process.pid)}
    return {rollout: fence for rollout, fence, pid in _rows(HELD) if pid in pids}


def _resumed(held: dict[Any, int]) -> list[float]:
    began = time.monotonic()
    waiting, found = dict(held), []
    while waiting:
        for rollout, fence in _rows(FENCES, list(waiting)):
            if fence > waiting[rollout]:
                found.append(time.monotonic() - began)
                del waiting[rollout]
        if time.monotonic() - began > PATIENCE_SECONDS:
            return found + [PATIENCE_SECONDS] * len(waiting)
        time.sleep(POLL_SECONDS)
    return found


def measure(agents: int = AGENTS, kills: int = KILLS) -> list[Row]:
    with database():
        return [
            *rows("dead agent to unknown", dead_agents(agents)),
            *rows("killed worker to resumed", killed_workers(kills)),
            *rows("killed worker of another machine to resumed", killed_workers(kills, elsewhere=True)),
        ]


def rows(what: str, seconds: Sequence[float]) -> list[Row]:
    longest = max(seconds)
    return [
        Row(
            what=what,
            median=f"{number(statistics.median(seconds))} s",
            spread=f"{number(min(seconds))} to {number(longest)} ({len(seconds)})",
            asked=f"at most {number(MOST_SECONDS)} s",
            met=met(longest <= MOST_SECONDS),
            note=f"quartiles {number(percentile(seconds, 0.25))} to {number(percentile(seconds, 0.75))}, "
            f"p99 {number(percentile(seconds, 0.99))}",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--kills", type=int, default=KILLS)
    options = parser.parse_args()
    for row in measure(options.agents, options.kills):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked} {row.met} {row.note}", flush=True)


if __name__ == "__main__":
    main()
