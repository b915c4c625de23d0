"""Slipway as a whole, to be broken: PostgreSQL, two webs, two workers, clock, agents behind proxies."""

import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from django.core.management import call_command
from django.db import InterfaceError, OperationalError, connections

from deployments.domain.states import TERMINAL
from deployments.models import Hold, Rollout, Target
from deployments.services.agents import create_join_token
from deployments.services.holds import lift_hold
from deployments.services.rollouts import start_rollout
from portal.local import reaper
from portal.local.ports import free_port
from portal.local.postgres import EmbeddedPostgres
from tests.faults import invariants, world
from tests.faults.proxy import Proxy
from tests.faults.stack import Program, eventually
from tests.faults.world import ACTOR, BROKEN, GOOD, REGIONS, World

T = TypeVar("T")
QUICK = {
    "batch": 2,
    "stage_timeout_seconds": 10,
    "activate_timeout_seconds": 12,
    "stage_attempts": 5,
    "activate_attempts": 5,
}
"""Time limits that let a rollout get over a message that was lost before a test's patience ends."""


class Fleet:
    """`directory` gets all that the processes write; `launch` and `service` say what lies in `effects`."""

    def __init__(self, directory: Path, *, services: int = 1, seed: int = 0) -> None:
        self.directory = directory
        self.effects = directory / "effects"
        self.effects.mkdir()
        self._closing = ExitStack()
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self._closing.callback(reaper.start(directory).communicate)
        self.url = self.postgres.start()
        self._environment = os.environ | {
            "DATABASE_URL": self.url,
            "SLIPWAY_HEARTBEAT_SECONDS": "1",
            "SLIPWAY_WORKER_PROCESSES": "2",
        }
        self._environment.pop("SLIPWAY_PROCESS", None)
        self._turn = itertools.count()
        self.programs: dict[str, Program] = {}
        ports = [free_port(), free_port()]
        for number, port in enumerate(ports, start=1):
            self.add(f"web-{number}", "manage.py", "web", "--port", str(port))
        for number in (1, 2):
            self.add(f"worker-{number}", "manage.py", "worker")
        self.add("clock", "manage.py", "clock")
        self.proxies = {name: Proxy(ports, seed) for name in REGIONS}
        with self.here():
            call_command("migrate", verbosity=0)
            self.world = World(self.effects, services)
            for name, proxy in self.proxies.items():
                self._closing.callback(proxy.close)
                self._add_agent(name, proxy)

    def here(self) -> AbstractContextManager[None]:
        """Django's own connections lead to this database meanwhile."""
        return world.pointed_at(self.url)

    # Its processes.

    def add(self, name: str, *command: str, code: Path | None = None, **environment: str) -> Program:
        """One more process of Slipway, not started yet; `code` is another checkout than this one."""
        launched = [sys.executable, "-m", "tests.faults.launch", name, str(self.effects), *command]
        log = self.directory / f"{name}.log"
        program = Program(name, launched, self._environment | environment, log, code)
        self.programs[name] = program
        return program

    def start(self) -> None:
        for program in self.programs.values():
            program.start()
        eventually(lambda: not Target.objects.filter(agent=None).exists(), "the agents enrol", seconds=90)

    def mend(self) -> None:
        """Everything as it should be: all ways open, every process running, none stopped."""
        for proxy in self.proxies.values():
            proxy.heal()
        if not self.postgres.is_running():
            self.postgres.start()
        for program in self.programs.values():
            if not program.runs:
                program.start()
            program.thaw()

    def stop(self) -> None:
        try:
            self.mend()
            for program in reversed(self.programs.values()):
                program.stop()
        finally:
            self._closing.close()

    def crash_database(self) -> None:
        """The server dies without a word to anybody; what was not synced is recovered from its log."""
        pid = int((self.postgres.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.postgres.is_running(), "the server ends")

    def arm(self, name: str, when: str, place: str, number: int = 1, how: str = "KILL") -> None:
        """Have the process die, or with `how` STOP be suspended, at that point; see `launch`."""
        plan = self.effects / f"{name}.kill"
        plan.with_suffix(".new").write_text(f"{when} {place} {number} {how}")
        plan.with_suffix(".new").rename(plan)

    def armed(self, name: str) -> bool:
        return (self.effects / f"{name}.kill").exists()

    def disarm(self, name: str) -> None:
        (self.effects / f"{name}.kill").unlink(missing_ok=True)

    def points(self, skip: int = 0) -> Counter[tuple[str, str, str]]:
        """How often each (process, before or after, place) was passed, from byte `skip` of the record on."""
        lines = (self.effects / "points").read_bytes()[skip:].decode().splitlines()
        return Counter((name, when, place) for name, when, place in map(str.split, lines))

    # What is done with it.

    def deploy(self, service: int = 0, *, broken: bool = False, **strategy: Any) -> Rollout:
        if broken:
            # It never comes up: once is enough.
            strategy = {"activate_attempts": 1} | strategy
        version = BROKEN if broken else GOOD[next(self._turn) % len(GOOD)]
        release = self.world.releases[service, version]
        if Hold.objects.filter(release=release, lifted_at=None).exists():
            lift_hold(actor=ACTOR, release_id=release.id, reason="to be tried again")
        return start_rollout(
            actor=ACTOR,
            service_id=release.service_id,
            environment_id=self.world.environment.id,
            release_id=release.id,
            strategy=QUICK | strategy,
        )

    def wait(
        self, rollout: Rollout, look: Callable[[Rollout], bool], what: str, seconds: float = 60
    ) -> Rollout:
        def fresh() -> bool:
            with suppress(OperationalError, InterfaceError):
                rollout.refresh_from_db()
                return look(rollout)
            connections.close_all()
            return False

        try:
            eventually(fresh, what, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {rollout.state}: {rollout.waiting_on}") from None
        return rollout

    def running(self, rollout: Rollout) -> Rollout:
        return self.wait(rollout, lambda r: r.tasks.exists(), "it has begun", seconds=30)

    def activating(self, rollout: Rollout) -> Rollout:
        return self.wait(
            rollout, lambda r: r.tasks.exclude(kind="stage").exists(), "it activates", seconds=40
        )

    def ended(self, rollout: Rollout, seconds: float = 90) -> Rollout:
        return self.wait(rollout, lambda r: r.state in TERMINAL, "it ends", seconds=seconds)

    def prove(self, *rollouts: Rollout) -> None:
        """Nothing is violated, as soon as what was under way at the agents has come to its end."""
        if found := self.violations(*rollouts):
            story = "\n".join(invariants.describe(rollout) for rollout in rollouts)
            raise AssertionError("\n".join([*found, story]))

    def violations(self, *rollouts: Rollout, seconds: float = 15) -> list[str]:
        """What is not as it must be, of these rollouts and of all targets, looked at until it is well."""
        found: list[str] = []
        with suppress(AssertionError):
            eventually(lambda: not self._look(found, rollouts), "all is well", seconds=seconds)
        return found

    def _look(self, found: list[str], rollouts: Sequence[Rollout]) -> list[str]:
        ids = [rollout.id for rollout in rollouts]
        found[:] = through(lambda: invariants.check(ids, self.effects))
        if found:
            time.sleep(0.3)
        return found

    def _add_agent(self, name: str, proxy: Proxy) -> None:
        targets = Target.objects.filter(region__name=name).values_list("id", flat=True)
        _, token = create_join_token(actor=ACTOR, agent_name=name, target_ids=list(targets))
        state = self.directory / f"agent-{name}"
        self.add(
            f"agent-{name}",
            *("-m", "deployments.agent", "--server", f"http://127.0.0.1:{proxy.port}"),
            *("--state-dir", str(state)),
            SLIPWAY_AGENT_JOIN_TOKEN=token,
            SLIPWAY_AGENT_STOP_SERVICES_ON_EXIT="1",
        )


def through(attempt: Callable[[], T], *, seconds: float = 60) -> T:
    """What `attempt` returns, tried again while the database is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (OperationalError, InterfaceError):
            connections.close_all()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
