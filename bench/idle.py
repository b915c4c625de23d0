"""Ten thousand connected agents on one web process: memory and CPU, idle and while 200 rollouts run.

    python -m bench.idle [--agents 10000] [--seconds 60]

Each agent serves one target, says a heartbeat every ten seconds, and answers and sends pings as a real one
does. Memory is the growth of the web process's resident memory from before the first agent to the end of
the idle span, by agent. A heartbeat has arrived when `last_seen_at` of its agent has moved: a trigger counts
the moves, and in the end each agent's count must be what it has sent.
Beside it, the same agents on a bare Channels consumer (`bench/idle_bare.py`) that counts frames.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from bench import plane, scale, usage, world
from bench.agents import Credential
from bench.crowd import allow_files, crowd
from bench.database import database
from bench.figures import Row, met, number

AGENTS = 10_000
HEARTBEAT_SECONDS = 10
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 15
LAST_SECONDS = 6
MOST_KB, MOST_CORE = 35.0, 0.25
ROLLOUTS = 200
UVICORN = ("--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--log-level", "warning")

# With the statement that writes heartbeats, so that none is missed that was written.
WATCH = """
    CREATE UNLOGGED TABLE bench_seen (id uuid PRIMARY KEY, moves int NOT NULL);
    INSERT INTO bench_seen SELECT id, 0 FROM deployments_agent;
    CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE bench_seen SET moves = moves + 1 FROM fresh JOIN former USING (id)
        WHERE bench_seen.id = fresh.id AND fresh.last_seen_at IS DISTINCT FROM former.last_seen_at;
        RETURN NULL;
    END $$;
    CREATE TRIGGER bench_note AFTER UPDATE ON deployments_agent
    REFERENCING NEW TABLE AS fresh OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION bench_note()
"""
UNWATCH = """
    DROP TRIGGER bench_note ON deployments_agent;
    DROP FUNCTION bench_note;
    DROP TABLE bench_seen
"""
SILENCE = (
    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - last_seen_at)), 0) FROM deployments_agent"
)


@dataclass(frozen=True)
class Span:
    """What a span of time cost, in shares of one core."""

    seconds: float
    share: dict[str, float]

    @classmethod
    def over(cls, seconds: float, cpu: dict[str, float]) -> "Span":
        return cls(seconds, {name: used / seconds for name, used in cpu.items()})


@dataclass(frozen=True)
class Found:
    agents: int
    kb: float
    """Resident memory of the web process for an agent."""
    idle: Span
    busy: Span
    sent: int
    missed: int
    """Heartbeats that were sent and did not move `last_seen_at`."""
    longest_seconds: float
    """The longest that an agent was not heard of, at any look."""
    lost: int
    """Connections that ended."""


class Watch:
    """Counts in the database how often each agent was heard of anew, from before it connects."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._began = threading.Event()
        self.longest_seconds = 0.0

    def __enter__(self) -> "Watch":
        _execute(WATCH)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        _execute(UNWATCH)

    def begin(self) -> None:
        """From now on, when all have connected, note how long the longest silence is."""
        self._began.set()

    def counts(self) -> dict[str, int]:
        """Heartbeats by agent; the first time that one is heard of is its connection."""
        return {str(agent_id): moves for agent_id, moves in _execute("SELECT id, moves - 1 FROM bench_seen")}

    def _run(self) -> None:
        from django.db import connections

        while not self._stop.wait(LOOK_SECONDS):
            if self._began.is_set():
                self.longest_seconds = max(self.longest_seconds, float(_execute(SILENCE)[0][0]))
        connections.close_all()


def _execute(statement: str) -> list[tuple[Any, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def observe(agents: int, seconds: float, *, rollouts: int = ROLLOUTS) -> Found:
    """Connect so many agents (a multiple of ten), measure idle and busy; needs `bench.database`."""
    allow_files(agents)
    made, credentials = world.fleet(agents // scale.TARGETS, scale.TARGETS)
    with (
        tempfile.TemporaryDirectory(prefix="slipway-idle-") as folder,
        plane.processes(Path(folder)) as started,
        Watch() as watch,
    ):
        web = started.web.process.pid
        pids = started.pids | {"database": usage.database_pid()}
        before_kb = usage.resident_kb(web)
        with crowd(started.url, credentials) as connected:
            time.sleep(min(seconds, SETTLE_SECONDS))
            watch.begin()
            idle = _span(pids, lambda: time.sleep(seconds))
            kb = (usage.resident_kb(web) - before_kb) / agents
            stage = scale.Stage(started, made, connected)
            busy = _span(pids, lambda: stage.run(min(rollouts, len(made))))
            connected.mute()
            time.sleep(LAST_SECONDS)
            lived = connected.count()
            counts = watch.counts()
            return Found(
                agents=agents,
                kb=kb,
                idle=idle,
                busy=busy,
                sent=sum(lived.beats.values()),
                missed=sum(max(0, beats - counts[agent]) for agent, beats in lived.beats.items()),
                longest_seconds=watch.longest_seconds,
                lost=len(lived.lost),
            )


def _span(pids: dict[str, int], during: Callable[[], object]) -> Span:
    began, before = time.monotonic(), usage.Cpu.of(pids)
    during()
    return Span.over(time.monotonic() - began, usage.Cpu.of(pids).since(before))


def bare(agents: int, seconds: float) -> tuple[float, float]:
    """Memory (kB) of an agent and share of a core, of a consumer that does nothing but count."""
    from portal.local.ports import free_port

    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.idle_bare:application", "--port", str(port), *UVICORN]
    allow_files(agents)
    with (
        tempfile.TemporaryDirectory(prefix="slipway-idle-") as folder,
        plane.running("bare", command, Path(folder)) as server,
    ):
        plane.answers(server, f"http://127.0.0.1:{port}")
        pid = server.process.pid
        before_kb = usage.resident_kb(pid)
        with crowd(f"http://127.0.0.1:{port}", strangers(agents)):
            time.sleep(min(seconds, SETTLE_SECONDS))
            span = _span({"bare": pid}, lambda: time.sleep(seconds))
            return (usage.resident_kb(pid) - before_kb) / agents, span.share["bare"]


def strangers(count: int) -> list[Credential]:
    """Of no database; nobody checks them."""
    return [Credential(str(uuid.uuid4()), SigningKey.generate()) for _ in range(count)]


def measure(agents: int = AGENTS, seconds: float = 60) -> list[Row]:
    os.environ["SLIPWAY_HEARTBEAT_SECONDS"] = str(HEARTBEAT_SECONDS)
    with database():
        found = observe(agents, seconds)
        bare_kb, bare_share = bare(agents, seconds)
    what, rollouts = f"{agents:,} agents", min(ROLLOUTS, agents // scale.TARGETS)
    return [
        Row(
            what=f"{what}: memory of the web process for one",
            median=f"{number(found.kb)} kB",
            asked=f"at most {number(MOST_KB)} kB",
            met=met(found.kb <= MOST_KB),
            note=f"a bare consumer {number(bare_kb)} kB",
        ),
        Row(
            what=f"{what}, idle: CPU of the web process",
            median=percent(found.idle.share["web"]),
            asked=f"at most {percent(MOST_CORE)}",
            met=met(found.idle.share["web"] <= MOST_CORE),
            note=f"of a core; a bare consumer {percent(bare_share)}; {others(found.idle)}",
        ),
        Row(
            what=f"{what}, {rollouts} rollouts: CPU of the web process",
            median=percent(found.busy.share["web"]),
            note=f"of a core, for {number(found.busy.seconds)} s; {others(found.busy)}",
        ),
        Row(
            what=f"{what}: heartbeats lost",
            median=str(found.missed),
            asked="none",
            met=met(found.missed == 0 and found.lost == 0),
            note=f"{found.sent:,} sent, {found.lost} connections lost",
        ),
        Row(
            what=f"{what}: longest time without a word of one",
            median=f"{number(found.longest_seconds)} s",
            asked=f"at most {SILENT_SECONDS} s",
            met=met(found.longest_seconds <= SILENT_SECONDS),
            note="then it counts as silent",
        ),
    ]


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def others(span: Span) -> str:
    return ", ".join(f"{name} {percent(span.share[name])}" for name in ("worker", "clock", "database"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    for row in measure(options.agents, options.seconds):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked} {row.met} {row.note}", flush=True)


if __name__ == "__main__":
    main()
