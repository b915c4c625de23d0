"""Slipway as it runs in earnest: web, worker, clock and agents as processes, to be killed one by one."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from django.db import connections

from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE
from deployments.models import Environment, Region, Release, Rollout, Service, Target, Team
from deployments.services.agents import create_join_token
from deployments.services.releases import create_config, create_release, upload_artifact
from deployments.services.rollouts import start_rollout
from portal.local.ports import free_port
from portal.local.sample.build import build
from tests.live.web import database_url

T = TypeVar("T")
ACTOR = Actor.system("test")
AGENTS = ("eu", "us")
TARGETS_PER_AGENT = 2

CONFIG: dict[str, Any] = {
    "process": {"command": [sys.executable, "orders.py"], "stop_seconds": 5},
    "env": {"PORT": "${target.port}", "REGION": "${region}", "STARTS": "${target.starts}"},
    "health": {
        "kind": "http",
        "port": "${target.port}",
        "path": "/healthz",
        "interval_ms": 100,
        "deadline_seconds": 8,
    },
}


def eventually(look: Callable[[], T], what: str, *, seconds: float = 30) -> T:
    """What `look` returns as soon as it is true; fails at the deadline, saying what did not happen."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s: {what}"
        time.sleep(0.02)
    return found


class Program:
    """One process of the stack, run in the checkout `code`; a new one takes its place at `start`."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        code: Path | None = None,
    ) -> None:
        self.name, self.log, self.code = name, log, code
        self.command, self._environment = command, dict(environment)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            # A session of its own: what is sent to all of its group must not reach the tests.
            self.process = subprocess.Popen(
                self.command,
                env=self._environment,
                cwd=self.code,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a power cut would: SIGKILL, nothing cleaned up."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def freeze(self) -> None:
        """Stop it with all that it has forked, as a suspended machine would; `thaw` lets it go on."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        """The process and its forks. What an agent has started has a session of its own and is none."""
        assert self.process is not None
        found = [self.process.pid] if self.runs else []
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                forks = [int(word) for word in children.read_text().split()]
                found += [fork for fork in forks if os.getsid(fork) == self.process.pid]
        return found

    def stop(self) -> None:
        if self.process is None or not self.runs:
            return
        self.thaw()
        self.send(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


class Stack:
    """Two agents with two targets each in two regions; a service `orders` with releases of the sample."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = os.environ | {"DATABASE_URL": database_url(), "SLIPWAY_PUBLIC_URL": self.url}
        manage = [sys.executable, "manage.py"]
        self.web = self._program("web", [*manage, "web", "--port", str(self.port)])
        self.worker = self._program("worker", [*manage, "worker"])
        self.clock = self._program("clock", [*manage, "clock"])
        self._world()
        self.agents = {name: self._agent(name) for name in AGENTS}

    @property
    def programs(self) -> list[Program]:
        return [self.web, self.worker, self.clock, *self.agents.values()]

    def start(self) -> None:
        for program in self.programs:
            program.start()
        eventually(self._answers, "the portal answers", seconds=90)
        eventually(self._enrolled, "the agents enrol", seconds=90)

    def stop(self) -> None:
        for program in reversed(self.programs):
            program.stop()
        connections.close_all()

    def release(self, version: str) -> Release:
        known = self.service.releases.filter(version=version).first()
        if known is not None:
            return known
        sample = build(version)
        artifact = upload_artifact(
            actor=ACTOR, chunks=[sample.data], digest=sample.digest, filename=sample.filename
        )
        config = create_config(actor=ACTOR, service_id=self.service.id, base=CONFIG, overlays={})
        return create_release(
            actor=ACTOR,
            service_id=self.service.id,
            version=version,
            artifact_digest=artifact.digest,
            config_id=config.id,
        )

    def deploy(self, version: str, **strategy: Any) -> Rollout:
        return start_rollout(
            actor=ACTOR,
            service_id=self.service.id,
            environment_id=self.environment.id,
            release_id=self.release(version).id,
            strategy={"batch": 1} | strategy,
        )

    def wait_for(self, rollout: Rollout, look: Callable[[Rollout], bool], what: str) -> Rollout:
        def fresh() -> bool:
            rollout.refresh_from_db()
            return look(rollout)

        eventually(fresh, f"{what}; the rollout is {rollout.state}: {rollout.waiting_on}")
        return rollout

    def ended(self, rollout: Rollout, *, seconds: float = 60) -> Rollout:
        def fresh() -> bool:
            rollout.refresh_from_db()
            return rollout.state not in ACTIVE

        eventually(fresh, "the rollout ends", seconds=seconds)
        return rollout

    def answers(self) -> dict[str, str]:
        """Target name -> what it answers to a customer, asked over HTTP."""
        found = {}
        for target in Target.objects.filter(service=self.service):
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{target.variables['port']}/orders", timeout=3
                ) as response:
                    found[target.name] = response.read().decode()
            except OSError as error:
                found[target.name] = f"{type(error).__name__}"
        return found

    def _program(self, name: str, command: list[str], **environment: str) -> Program:
        return Program(name, command, self._environment | environment, self.directory / f"{name}.log")

    def _agent(self, name: str) -> Program:
        targets = Target.objects.filter(service=self.service, region__name=name)
        _, token = create_join_token(
            actor=ACTOR, agent_name=name, target_ids=list(targets.values_list("id", flat=True))
        )
        state = self.directory / f"agent-{name}"
        return self._program(
            f"agent-{name}",
            [sys.executable, "-m", "deployments.agent", "--server", self.url, "--state-dir", str(state)],
            SLIPWAY_AGENT_JOIN_TOKEN=token,
            SLIPWAY_AGENT_STOP_SERVICES_ON_EXIT="1",
        )

    def twin(self, program: Program) -> Program:
        """Another process of the same kind, to run beside it."""
        return self._program(f"{program.name}-2", program.command)

    def _enrolled(self) -> bool:
        return not Target.objects.filter(agent__isnull=True).exists()

    def _answers(self) -> bool:
        assert self.web.process is not None
        assert self.web.process.poll() is None, self.web.log.read_text()
        try:
            urllib.request.urlopen(self.url + "/nothing-is-here", timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _world(self) -> None:
        team = Team.objects.create(name="shop")
        self.environment = Environment.objects.create(name="prod", tier="prod")
        self.service = Service.objects.create(team=team, name="orders")
        for position, name in enumerate(AGENTS):
            region = Region.objects.create(environment=self.environment, name=name, position=position)
            for number in range(TARGETS_PER_AGENT):
                variables = {"port": str(free_port()), "starts": name}
                Target.objects.create(
                    service=self.service, region=region, name=f"{name}-{number}", variables=variables
                )
