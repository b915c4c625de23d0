"""Old code is replaced by new on one database, in the middle of a rollout, and nobody notices."""

import io
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.db.models.functions import Now

from deployments import queueing
from deployments.models import Batch, Rollout, RolloutTarget, Target, Task
from portal.local.ports import free_port
from tests.faults import invariants
from tests.faults.fleet import QUICK, Fleet
from tests.faults.stack import Program, eventually
from tests.faults.world import ACTOR

pytestmark = pytest.mark.timeout(200)
ROOT = Path(__file__).resolve().parents[2]
OLD = "3702396623ca531858f141080faf77da617e5c1d"
"""The last commit before the schema learned of queues, deadlines and holds (migration 0006)."""
TICK = "deployments/engine/tick.py:_once"
BAKE_SECONDS = 3600
KINDS = ("web", "worker", "clock")
START = """
from deployments.domain.actor import Actor
from deployments.services.rollouts import start_rollout
start_rollout(
    actor=Actor.system({actor!r}), service_id={service!r}, environment_id={environment!r},
    release_id={release!r}, strategy={strategy!r},
)
"""


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


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product as it was at OLD, with today's look-out; a clone without that history skips visibly."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip(
            "the code before this upgrade comes from git, and this is no checkout, or there is no git"
        )
    kept = subprocess.run([git, "archive", OLD], cwd=ROOT, capture_output=True, check=False)
    if kept.returncode:
        pytest.skip(f"this clone is shallow: commit {OLD[:7]} is missing, `git fetch --unshallow` brings it")
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as archive:
        archive.extractall(directory, filter="data")
    shutil.copy(Path(__file__).with_name("launch.py"), directory / "tests" / "faults")
    return directory


class Old:
    """Two webs, two workers and a clock of the old code, on the new schema."""

    def __init__(self, fleet: Fleet, code: Path) -> None:
        self.fleet, self.code = fleet, code
        self.ports = [free_port(), free_port()]
        self.workers = [self._add(f"worker-old-{number}", "worker") for number in (1, 2)]
        self.programs = [
            *(self._add(f"web-old-{port}", "web", "--port", str(port)) for port in self.ports),
            *self.workers,
            self._add("clock-old", "clock"),
        ]

    def _add(self, name: str, *command: str) -> Program:
        return self.fleet.add(name, "manage.py", *command, code=self.code)

    def start(self) -> None:
        for program in self.programs:
            program.start()
        at_work(self.fleet, self.workers, self.ports)

    def stop(self) -> None:
        for program in self.programs:
            self.fleet.programs.pop(program.name, program).stop()

    def deploy(self, service: int, **strategy: object) -> Rollout:
        """Start a rollout with the old code, as its API would."""
        world = self.fleet.world
        serving = Rollout.objects.filter(service=world.services[service], state="succeeded").first()
        release = next(
            one
            for (number, version), one in world.releases.items()
            if number == service and version != "broken" and one.id != (serving and serving.release_id)
        )
        code = START.format(
            actor=ACTOR.name,
            service=str(release.service_id),
            environment=str(world.environment.id),
            release=str(release.id),
            strategy=QUICK | strategy,
        )
        shell = self._add("shell-old", "shell", "--command", code)
        del self.fleet.programs["shell-old"]
        shell.start()
        assert shell.process is not None
        assert shell.process.wait(60) == 0, shell.log.read_text()
        newest = Rollout.objects.filter(release=release).first()
        assert newest is not None
        return newest


@pytest.fixture
def old(fleet: Fleet, old_code: Path) -> Iterator[Old]:
    running = Old(fleet, old_code)
    ports = {name: proxy.upstreams for name, proxy in fleet.proxies.items()}
    try:
        yield running
    finally:
        running.stop()
        for name, proxy in fleet.proxies.items():
            proxy.upstreams = ports[name]


def at_work(fleet: Fleet, workers: list[Program], ports: list[int]) -> None:
    def taken() -> bool:
        seen = {name for name, _, _ in fleet.points()}
        assert all(program.runs for program in workers), [program.log.read_text() for program in workers]
        return seen >= {program.name for program in workers}

    eventually(taken, "the workers look for jobs")
    eventually(lambda: all(map(answers, ports)), "the web processes answer")


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        time.sleep(0.1)
        return False
    return True


def baking(fleet: Fleet, rollout: Rollout, position: int) -> None:
    """Wait until that batch bakes, which it does until `let_on`: the rollout cannot get any further."""
    what = f"batch {position} bakes"
    fleet.wait(rollout, lambda r: r.batches.filter(state="baking", position=position).exists(), what)
    assert rollout.state == "running", what


def let_on(rollout: Rollout) -> None:
    """As if the bake had begun as long ago as it takes."""
    earlier = F("activated_at") - timedelta(seconds=BAKE_SECONDS)
    assert Batch.objects.filter(rollout=rollout, state="baking").update(activated_at=earlier) == 1
    Rollout.objects.filter(id=rollout.id).update(next_check_at=Now())
    queueing.tick(rollout.id)


def ticked(fleet: Fleet, programs: list[Program], skip: int) -> bool:
    """Whether one of these workers has looked at a rollout since."""
    return any((program.name, "after", TICK) in fleet.points(skip) for program in programs)


def test_an_upgrade_in_the_middle_of_a_rollout_interrupts_nothing(fleet: Fleet, old: Old) -> None:
    """Begun by the old code, gone on with by both, ended by the new; no task fails, or is given twice."""
    fleet.ended(fleet.deploy())
    other = fleet.ended(fleet.deploy(1))
    bystanders = Target.objects.filter(service=other.service)
    new = [program for name, program in fleet.programs.items() if name.split("-")[0] in KINDS]
    new = [program for program in new if program.code is None]
    new_workers = [program for program in new if program.name.startswith("worker")]
    new_ports = list(fleet.proxies["eu"].upstreams)

    old.start()
    move(fleet, old.ports)
    for program in new:
        program.stop()
    customers = Customers({target.name: int(target.variables["port"]) for target in bystanders})
    began = (fleet.effects / "points").stat().st_size
    rollout = old.deploy(0, batch=1, bake_seconds=BAKE_SECONDS)
    baking(fleet, rollout, 0)
    assert ticked(fleet, old.workers, began)

    alone = (fleet.effects / "points").stat().st_size
    for program in new:
        program.start()
    eventually(
        lambda: {name for name, _, _ in fleet.points(alone)} >= {one.name for one in new_workers},
        "the new workers look for jobs",
    )
    at_work(fleet, new_workers, new_ports)
    move(fleet, [*old.ports, *new_ports])
    let_on(rollout)
    baking(fleet, rollout, 1)

    both = (fleet.effects / "points").stat().st_size
    move(fleet, new_ports)
    old.stop()
    baking(fleet, rollout, 1)
    for position in (2, 3):
        let_on(rollout)
        baking(fleet, rollout, position)
    let_on(rollout)
    fleet.ended(rollout)
    assert ticked(fleet, new_workers, both)
    customers.leave()
    assert rollout.state == "succeeded", rollout.outcome
    tasks = Task.objects.filter(rollout=rollout)
    assert set(tasks.values_list("state", flat=True)) == {"succeeded"}, invariants.describe(rollout)
    assert tasks.count() == 8, "one stage and one activation a target"
    assert not RolloutTarget.objects.filter(rollout=rollout).exclude(error="").exists()
    assert all(customers.answers.values())
    assert not any(customers.failures.values()), customers.failures
    fleet.prove(rollout, other)


def move(fleet: Fleet, ports: list[int]) -> None:
    """Agents that connect anew, as they do when their web process stops, come to one of these."""
    for proxy in fleet.proxies.values():
        proxy.upstreams = ports
