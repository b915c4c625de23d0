"""`python -m tests.faults.torture --rollouts 1000 --seed 7`: so many rollouts under random faults, a table.

Several services roll out at the same time, as fast as they can; some releases are broken, some rollouts
are cancelled, paused or turned round by people who do not talk to one another. Meanwhile `chaos` breaks
one thing after the other. At the end everything is mended, and `invariants` looks at all that happened.
The same seed makes the same decisions; what they meet with depends on the machine's pace. Exit code 1
when anything was violated, with the whole story of each rollout concerned; when a rollout stood in
quarantine, which no fault here is a reason for; when one ran and was not looked at within
RESUME_LIMIT_SECONDS of the last fault of the control plane; and when a cancellation took longer than
CANCEL_LIMIT_SECONDS.
"""

import argparse
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The same environment as the tests; the database is our own, and takes this one's place.
    os.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    import tests.conftest  # noqa: F401

from django.db import connections
from django.utils import timezone

from deployments.domain.states import ACTIVE, TERMINAL, RolloutState
from deployments.errors import SlipwayError
from deployments.models import Event, JobFault, Rollout
from deployments.services.faults import release_fault
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout, pause_rollout, resume_rollout
from tests.faults import invariants
from tests.faults.chaos import CONTROL_PLANE, Chaos
from tests.faults.fleet import Fleet, through
from tests.faults.measures import Run, Wait, spread, waits
from tests.faults.points import Death, deaths_of_a_rollout, die_at
from tests.faults.world import ACTOR

SERVICES = 6
ALL_KINDS = (*CONTROL_PLANE, "database", "several")
PATIENCE_SECONDS = 240
"""A rollout that has not ended by then is called a zombie."""
RESUME_LIMIT_SECONDS = 30
CANCEL_LIMIT_SECONDS = 10
AT_WORK = (RolloutState.RUNNING, RolloutState.ROLLING_BACK)
"""The engine has to look at these; what is paused waits for a person."""
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"batch": 1},
    {"batch": 2},
    {"batch": 4, "max_unavailable": 1},
    {"batch": 4, "max_unavailable": 2},
    {"batch": 2, "bake_seconds": 1},
    {"batch": 1, "order": "regions", "on_failure": "pause"},
)


class Torture:
    def __init__(self, fleet: Fleet, rollouts: int, seed: int, deaths: list[Death]) -> None:
        self.fleet = fleet
        self.seed = seed
        self.chaos = Chaos(fleet, seed, deaths)
        self.rollouts: list[Rollout] = []
        self.zombies: list[Rollout] = []
        self.cancels: list[float] = []
        """Seconds from the command to the end; PATIENCE_SECONDS where there was none."""
        self.errors: list[str] = []
        """What people were told that is neither done nor a reason."""
        self.helped: Counter[str] = Counter()
        """What a person had to do."""
        self._began = timezone.now()
        self._left = rollouts
        self._turn = threading.Lock()

    def run(self) -> list[str]:
        """Returns what was violated, once everything is mended and at rest."""
        drivers = [
            threading.Thread(target=self._drive, args=(number,)) for number in range(len(self.services))
        ]
        for driver in drivers:
            driver.start()
        while any(driver.is_alive() for driver in drivers):
            self.chaos.strike()
        self.fleet.mend()
        return [*self.errors, *self.fleet.violations(*self.rollouts, seconds=40), *self.quarantined()]

    @property
    def services(self) -> Sequence[Any]:
        return self.fleet.world.services

    def _drive(self, service: int) -> None:
        chance = random.Random(f"{self.seed} {service}")
        try:
            while self._take():
                self._one(service, chance)
        except Exception as error:
            self.errors.append(f"service {service}: an error that nobody foresaw: {error!r}")
            raise
        finally:
            connections.close_all()

    def _take(self) -> bool:
        with self._turn:
            self._left -= 1
            if self._left >= 0 and self._left % 10 == 0:
                print(f"{time.strftime('%H:%M:%S')}  {self._left} rollouts to go", flush=True)
            return self._left >= 0

    def _one(self, service: int, chance: random.Random) -> None:
        broken = chance.random() < 0.12
        strategy = chance.choice(STRATEGIES)
        rollout = self._start(service, broken, strategy)
        roll, moment = chance.random(), chance.uniform(0, 1.5)
        time.sleep(moment)
        if roll < 0.08:
            self._cancel(rollout)
        elif roll < 0.14:
            self._press(rollout, roll_back_rollout)
        elif roll < 0.20:
            pair = chance.choice([(pause_rollout, cancel_rollout), (roll_back_rollout, pause_rollout)])
            other = threading.Thread(target=self._press, args=(rollout, pair[0], True))
            other.start()
            self._press(rollout, pair[1])
            other.join()
        for one in through(
            lambda: list(Rollout.objects.filter(service=self.services[service], state__in=ACTIVE))
        ):
            self._see_through(one)
        self._see_through(rollout)

    def _start(self, service: int, broken: bool, strategy: dict[str, Any]) -> Rollout:
        """Start one. A commit whose answer was lost with the database is found by what it made."""
        before = {
            one.id for one in through(lambda: list(Rollout.objects.filter(service=self.services[service])))
        }

        def once() -> Rollout:
            mine = Rollout.objects.filter(service=self.services[service]).exclude(id__in=before).first()
            return mine or self.fleet.deploy(service, broken=broken, **strategy)

        return self._known(through(once))

    def _known(self, rollout: Rollout) -> Rollout:
        with self._turn:
            if rollout.id not in {one.id for one in self.rollouts}:
                self.rollouts.append(rollout)
        return rollout

    def _cancel(self, rollout: Rollout) -> None:
        began = time.monotonic()
        if not self._press(rollout, cancel_rollout):
            return
        while through(lambda: Rollout.objects.get(id=rollout.id)).state not in TERMINAL:
            time.sleep(0.01)
            if time.monotonic() - began > PATIENCE_SECONDS:
                self.cancels.append(PATIENCE_SECONDS)
                return
        self.cancels.append(time.monotonic() - began)

    def _press(self, rollout: Rollout, button: Callable[..., Rollout], last: bool = False) -> bool:
        """Whether the command was obeyed."""
        try:
            self._known(
                through(lambda: button(actor=ACTOR, rollout_id=rollout.id, reason="a person says so"))
            )
            return True
        except SlipwayError:
            return False
        except Exception as error:
            self.errors.append(f"{button.__name__}: an error that nobody foresaw: {error!r}")
            return False
        finally:
            if last:
                connections.close_all()

    def _see_through(self, rollout: Rollout) -> None:
        """Wait for its end; resume what was paused, release what stands in quarantine, as people would."""
        self._known(rollout)
        deadline = time.monotonic() + PATIENCE_SECONDS
        decisions = 0
        while time.monotonic() < deadline:
            fresh = through(lambda: Rollout.objects.get(id=rollout.id))
            if fresh.state in TERMINAL:
                return
            if fresh.quarantined_at is not None:
                self._release(fresh)
            if fresh.state == "paused":
                self._decide(fresh, decisions := decisions + 1)
            time.sleep(0.05)
        self.zombies.append(rollout)
        print(f"zombie: {rollout.id} {fresh.state}: {fresh.waiting_on}", flush=True)
        # Or all that come after it would wait as well.
        self._press(rollout, cancel_rollout)

    def _decide(self, rollout: Rollout, turn: int) -> None:
        """Try once more what stands paused; then go back, or where there is no way back give it up."""
        if turn == 1:
            self.helped["resumed"] += 1
            self._press(rollout, resume_rollout)
        elif not self._press(rollout, roll_back_rollout):
            self._press(rollout, cancel_rollout)

    def _release(self, rollout: Rollout) -> None:
        faults = JobFault.objects.filter(
            subject=str(rollout.id), quarantined_at__isnull=False, released_at=None
        )
        for fault_id in through(lambda: list(faults.values_list("id", flat=True))):
            self.helped["released from quarantine"] += 1
            through(lambda: release_fault(actor=ACTOR, fault_id=fault_id, reason="try again"))  # noqa: B023

    # Figures.

    def quarantined(self) -> list[str]:
        """Nothing that breaks here is a reason to give a rollout up, least of all that workers die."""
        faults = JobFault.objects.filter(quarantined_at__gte=self._began)
        return [
            f"{fault.function} of rollout {fault.subject} was put in quarantine"
            f" {f'by {fault.error}' if fault.traceback else 'by kills alone'}, and needed a person"
            for fault in faults
        ]

    def late(self) -> list[str]:
        """What took longer than it may, as sentences."""
        found = []
        slowest = max((wait.since_last for wait in self.resumed()), default=0.0)
        if slowest > RESUME_LIMIT_SECONDS:
            found.append(f"a rollout was looked at {slowest:.1f} s after the last fault of the control plane")
        if (slowest := max(self.cancels, default=0.0)) > CANCEL_LIMIT_SECONDS:
            found.append(f"a cancelled rollout ended after {slowest:.1f} s")
        return found

    def resumed(self, kind: str = "") -> list[Wait]:
        """For each fault of the control plane, or of this kind, and each rollout at work then: how long."""
        looks: dict[str, list[float]] = {}
        for when, rollout in map(str.split, (self.fleet.effects / "ticks").read_text().splitlines()):
            looks.setdefault(rollout, []).append(float(when))
        every = [
            (when, name)
            for when, name, detail in self.chaos.struck
            if name in ALL_KINDS or (name == "suspended" and not detail.startswith("agent"))
        ]
        struck = [when for when, name in every if name == kind or not kind]
        return waits(struck, [when for when, _ in every], self._runs(), looks, PATIENCE_SECONDS)

    def _runs(self) -> list[Run]:
        """From when a rollout is AT_WORK until it is not."""
        moves: dict[str, list[tuple[float, str]]] = {}
        events = Event.objects.filter(kind="rollout.state", at__gte=self._began).order_by("number")
        for event in events:
            moved = event.at.timestamp(), event.data["after"]["state"]
            moves.setdefault(str(event.rollout_id), []).append(moved)
        found = []
        for rollout, history in moves.items():
            start = math.inf
            for when, state in history:
                if state in AT_WORK:
                    start = min(start, when)
                elif start < math.inf:
                    found.append(Run(rollout, start, when))
                    start = math.inf
            if start < math.inf:
                found.append(Run(rollout, start, math.inf))
        return found

    def table(self, violations: Sequence[str]) -> str:
        states = Counter(Rollout.objects.values_list("state", flat=True))
        faults = Counter(kind for _, kind, _ in self.chaos.struck)
        doubles = invariants.double_effects(violations)
        last = {kind: [one.since_last for one in self.resumed(kind)] for kind in ("worker", "")}
        rows = [
            ("seed", str(self.seed)),
            ("rollouts", f"{len(self.rollouts)}: {listed(states)}"),
            ("faults", f"{len(self.chaos.struck)}: {listed(faults)}"),
            ("zombies", str(len(self.zombies))),
            ("double effects", str(doubles)),
            ("violated invariants", str(len(violations) - doubles)),
            ("a person had to", listed(self.helped) or "do nothing"),
            ("rollouts in quarantine", str(len(self.quarantined()))),
            ("killed worker to next tick", spread(last["worker"])),
            ("any fault of the control plane to next tick", spread(last[""])),
            (
                "the same from the first of several faults",
                spread([one.since_first for one in self.resumed()]),
            ),
            ("cancelled to end", spread(self.cancels)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def every_point(fleet: Fleet, deaths: Sequence[Death]) -> list[str]:
    """A rollout for each commit point that a rollout has, with a death there; what was violated."""
    found = []
    came = 0
    for number, death in enumerate(deaths, start=1):
        rollout, missing = die_at(fleet, [death], bake_seconds=1)
        came += not missing
        wrong = fleet.violations(rollout)
        if rollout.state != "succeeded":
            wrong.append(f"rollout {rollout.id} is {rollout.state}: {rollout.outcome}")
        found += [f"{death}: {sentence}" for sentence in wrong]
        said = "did not come to it" if missing else "; ".join(wrong) or "well"
        print(f"{number} of {len(deaths)}  {death}: {said}", flush=True)
    print(f"commit points: {len(deaths)}, died at {came}, violations {len(found)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Rollouts under random faults, and what became of them.")
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--points", action="store_true", help="first die once at each commit point")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="slipway-torture-"))
    print(f"seed {options.seed}; logs in {directory}", flush=True)
    fleet = Fleet(directory, services=SERVICES, seed=options.seed)
    with fleet.here():
        try:
            fleet.start()
            deaths = deaths_of_a_rollout(fleet)
            violations = every_point(fleet, deaths) if options.points else []
            torture = Torture(fleet, options.rollouts, options.seed, deaths)
            violations += torture.run()
            for one in [*torture.zombies, *(r for r in torture.rollouts if str(r.id) in str(violations))]:
                one.refresh_from_db()
                print(invariants.describe(one))
            print("\n".join(violations))
            print(torture.table(violations))
            late = torture.late()
            print("\n".join(late))
        finally:
            fleet.stop()
    left = invariants.running_services(fleet.effects)
    print(f"processes left behind: {sum(map(len, left.values()))}")
    return 1 if violations or torture.zombies or left or late else 0


if __name__ == "__main__":
    sys.exit(main())
