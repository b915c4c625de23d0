"""What the catalog has to hold before anything can be rolled out: a service with targets, and releases."""

import hashlib
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.agents import Credential, forge
from bench.plane import Running

REGIONS = 3


@dataclass(frozen=True)
class World:
    service: Any
    environment: Any
    actor: Any


def build(targets: int) -> World:
    """A service with so many targets over three regions, without agents yet."""
    from deployments.domain.actor import Actor
    from deployments.models import Environment, Region, Service, Target, Team

    name = f"bench-{uuid.uuid4().hex[:8]}"
    environment = Environment.objects.create(name=name, tier="dev")
    regions = [
        Region.objects.create(environment=environment, name=f"r{number}", position=number)
        for number in range(REGIONS)
    ]
    service = Service.objects.create(team=Team.objects.create(name=name), name=name)
    Target.objects.bulk_create(
        Target(
            service=service,
            region=regions[number % REGIONS],
            name=f"t-{number:04}",
            variables={"port": str(10_000 + number)},
        )
        for number in range(targets)
    )
    return World(service, environment, Actor.system("bench"))


def fleet(services: int, targets: int) -> tuple[list[World], list[Credential]]:
    """So many services of a team in one environment, each with so many targets, each target with an agent."""
    from deployments.domain.actor import Actor
    from deployments.models import Environment, Region, Service, Target, Team

    name = f"bench-{uuid.uuid4().hex[:8]}"
    environment = Environment.objects.create(name=name, tier="dev")
    region = Region.objects.create(environment=environment, name="r0", position=0)
    team = Team.objects.create(name=name)
    made = Service.objects.bulk_create(
        Service(team=team, name=f"{name}-{number:04}") for number in range(services)
    )
    credentials = forge([f"{name}-{number:05}" for number in range(services * targets)])
    Target.objects.bulk_create(
        Target(
            service=made[number // targets],
            region=region,
            name=f"t-{number % targets:02}",
            variables={"port": str(10_000 + number % targets)},
            agent_id=credential.agent_id,
        )
        for number, credential in enumerate(credentials)
    )
    return [World(service, environment, Actor.system("bench")) for service in made], credentials


def join_token(world: World, agent_name: str) -> str:
    """Text of a token whose agent will serve all targets of the service."""
    from deployments.services.agents import create_join_token

    target_ids = list(world.service.targets.values_list("id", flat=True))
    _, text = create_join_token(actor=world.actor, agent_name=agent_name, target_ids=target_ids)
    return text


def wait_for_agent(world: World, agent: Running, seconds: float = 60) -> None:
    """Return when an agent serves the service's targets and is connected."""
    deadline = time.monotonic() + seconds
    while world.service.targets.exclude(agent__connected_to__gt="").exists():
        agent.require()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the agent did not connect:\n{agent.log.read_text()[-2000:]}")
        time.sleep(0.05)


def stored_artifact(archive: Path) -> Any:
    """The artifact's row, its bytes in the store."""
    from deployments.artifacts import store
    from deployments.models import Artifact

    with archive.open("rb") as file:
        stored = store.put(iter(lambda: file.read(1 << 20), b""), digest=None, max_bytes=1 << 30)
    artifact, _ = Artifact.objects.get_or_create(
        digest=stored.digest, defaults={"size_bytes": stored.size_bytes}
    )
    return artifact


def imagined_artifact() -> Any:
    """The row of an artifact that nobody will fetch."""
    from deployments.models import Artifact

    digest = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    return Artifact.objects.create(digest=f"sha256:{digest}", size_bytes=1)


def release(world: World, version: str, artifact: Any, base: dict[str, Any]) -> Any:
    """A release of the service with a configuration of its own."""
    from deployments.models import ConfigSnapshot, Release

    number = ConfigSnapshot.objects.filter(service=world.service).count() + 1
    digest = hashlib.sha256(f"{world.service.name} {number}".encode()).hexdigest()
    config = ConfigSnapshot.objects.create(
        service=world.service, number=number, digest=f"sha256:{digest}", created_by="bench", base=base
    )
    return Release.objects.create(
        service=world.service, version=version, artifact=artifact, config=config, created_by="bench"
    )


def roll_out(world: World, release: Any, batch: str, *processes: Running, seconds: float = 600) -> Any:
    """Start a rollout by the command that REST calls, wait for its end, and return its row.

    The end is polled ten times a second; what is measured are the row's own times.
    """
    from deployments.domain.states import RolloutState
    from deployments.services.rollouts import start_rollout

    rollout = start_rollout(
        actor=world.actor,
        service_id=world.service.id,
        environment_id=world.environment.id,
        release_id=release.id,
        strategy={"batch": batch},
    )
    deadline = time.monotonic() + seconds
    while rollout.finished_at is None:
        time.sleep(0.1)
        for process in processes:
            process.require()
        rollout.refresh_from_db()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the rollout is {rollout.state} and waits on {rollout.waiting_on}")
    if rollout.state != RolloutState.SUCCEEDED:
        raise RuntimeError(f"the rollout ended as {rollout.state}: {rollout.outcome}")
    return rollout


def seconds_between(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()
