"""Random faults, one after the other, each mended before the next: the seed alone decides what breaks."""

import random
import resource
import time
from collections import Counter
from collections.abc import Callable

from django_q.tasks import async_task

from deployments.domain.states import MOVING
from deployments.models import Rollout
from tests.faults.fleet import Fleet, through
from tests.faults.points import Death, names
from tests.faults.proxy import Weather
from tests.faults.stack import Program

LEASE_SECONDS = 15
ARMED_SECONDS = 6
CONTROL_PLANE = ("web", "worker", "clock")


class Chaos:
    """Call `strike` again and again. `struck` is what was done: when (Unix time), by name."""

    def __init__(self, fleet: Fleet, seed: int, deaths: list[Death]) -> None:
        self.fleet = fleet
        self.struck: list[tuple[float, str, str]] = []
        """(when, kind of the fault, detail)"""
        self.missed: Counter[str] = Counter()
        """Points that nobody came to while a process was to die there."""
        self._deaths = deaths
        self._chance = random.Random(seed)
        self._faults: list[tuple[int, Callable[[], None]]] = [
            (10, self.kill_at_commit),
            (5, self.kill),
            (2, self.kill_several),
            (1, self.sleep),
            (1, self.restart_database),
            (1, self.crash_database),
            (3, self.cut_off),
            (2, self.break_connections),
            (4, self.bad_weather),
            (2, self.fill_disk),
            (2, self.deliver_often),
        ]

    def strike(self) -> None:
        weights = [weight for weight, _ in self._faults]
        (_, fault) = self._chance.choices(self._faults, weights)[0]
        fault()
        time.sleep(self._chance.uniform(0.1, 1.5))

    def kill_at_commit(self) -> None:
        death = self._chance.choice(self._deaths)
        members = names(self.fleet, death.kind)
        for name in members:
            self.fleet.arm(name, death.when, death.place, death.number)
        deadline = time.monotonic() + ARMED_SECONDS
        programs = [self.fleet.programs[name] for name in members]
        while all(program.runs for program in programs) and time.monotonic() < deadline:
            time.sleep(0.01)
        for name in members:
            self.fleet.disarm(name)
        if all(program.runs for program in programs):
            self.missed[str(death)] += 1
            return
        self._note(death.kind, str(death))
        self._start_again()

    def kill(self) -> None:
        self._kill([self._chance.choice(list(self.fleet.programs.values()))])

    def kill_several(self) -> None:
        programs = list(self.fleet.programs.values())
        self._kill(self._chance.sample(programs, self._chance.randint(2, len(programs))))

    def sleep(self) -> None:
        """A process is suspended, now and then for longer than a lease lasts."""
        program = self._chance.choice(list(self.fleet.programs.values()))
        seconds = self._chance.choice([1, 4, LEASE_SECONDS + 3])
        self._note("suspended", f"{program.name} for {seconds} s")
        program.freeze()
        time.sleep(seconds)
        program.thaw()

    def restart_database(self) -> None:
        self._note("database", "restarted")
        self.fleet.postgres.stop()
        self.fleet.postgres.start()

    def crash_database(self) -> None:
        self._note("database", "crashed")
        self.fleet.crash_database()
        self.fleet.postgres.start()

    def cut_off(self) -> None:
        """For shorter than it takes to be called silent, or longer."""
        name = self._chance.choice(list(self.fleet.proxies))
        seconds = self._chance.choice([0.5, 2, 5, 9])
        self._note("partition", f"agent {name} for {seconds} s")
        self.fleet.proxies[name].partition()
        time.sleep(seconds)
        self.fleet.proxies[name].heal()

    def break_connections(self) -> None:
        name = self._chance.choice(list(self.fleet.proxies))
        self._note("connection", f"of agent {name} broken")
        self.fleet.proxies[name].cut()

    def bad_weather(self) -> None:
        kind = self._chance.choice(["delay_seconds", "drop", "duplicate", "reorder"])
        value = {"delay_seconds": 1.0, "drop": 0.1, "duplicate": 0.5, "reorder": 0.4}[kind]
        self._note("messages", kind)
        for proxy in self.fleet.proxies.values():
            proxy.weather = Weather(**{kind: value})
        time.sleep(self._chance.uniform(1, 4))
        for proxy in self.fleet.proxies.values():
            proxy.heal()

    def fill_disk(self) -> None:
        name = self._chance.choice(names(self.fleet, "agent"))
        process = self.fleet.programs[name].process
        assert process is not None
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        self._note("disk full", name)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))
        time.sleep(self._chance.uniform(0.5, 3))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))

    def deliver_often(self) -> None:
        moving = through(lambda: list(Rollout.objects.filter(state__in=MOVING).values_list("id", flat=True)))
        if not moving:
            return
        rollout_id = self._chance.choice(moving)
        self._note("jobs", f"a hundred of {rollout_id}")
        through(lambda: [async_task("deployments.tasks.tick", str(rollout_id)) for _ in range(100)])

    def _kill(self, programs: list[Program]) -> None:
        kinds = {program.name.split("-")[0] for program in programs}
        kind = kinds.pop() if len(kinds) == 1 else "several"
        self._note(kind, ", ".join(program.name for program in programs))
        for program in programs:
            program.kill()
        time.sleep(self._chance.uniform(0, 1))
        self._start_again()

    def _start_again(self) -> None:
        for program in self.fleet.programs.values():
            if not program.runs:
                program.start()

    def _note(self, kind: str, detail: str) -> None:
        self.struck.append((time.time(), kind, detail))
        print(f"{time.strftime('%H:%M:%S')}  {kind}: {detail}", flush=True)
