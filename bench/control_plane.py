"""What the control plane costs a target, with the agents' work mocked to nothing.

Runs whole rollouts through the real commands, inbox, outbox and engine against a real PostgreSQL, in
one process and without sockets: events, audit, reports and signed frames included.
"""

import statistics
import time

from bench.database import database


def run(targets: int, batch: str = "10%") -> tuple[float, int]:
    """Roll a release out over `targets`; returns milliseconds a target and the number of ticks."""
    from deployments.agents import inbox, outbox
    from deployments.domain.states import RolloutState
    from deployments.engine.tick import tick
    from deployments.services.rollouts import start_rollout

    service, environment, release, actor = prepare(targets)
    ticks = 0
    began = time.perf_counter()
    rollout = start_rollout(
        actor=actor,
        service_id=service.id,
        environment_id=environment.id,
        release_id=release.id,
        strategy={"batch": batch},
    )
    tick(rollout.id)
    agent_ids = [service.targets.values_list("agent_id", flat=True)[0]]
    while frames := outbox.take(agent_ids):
        inbox.accept([(agent, answer(frame)) for agent, _, frame in frames])
        tick(rollout.id)
        ticks += 1
    spent = time.perf_counter() - began
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.SUCCEEDED, rollout.outcome
    return spent / targets * 1000, ticks


def answer(frame: str):
    """What an agent would say that had nothing to do."""
    from deployments import protocol

    task = protocol.decode_instruction(protocol.decode_downward(frame).body)
    return protocol.TaskReport(
        task_id=task.task_id, attempt=task.attempt, fence=task.fence, status="succeeded"
    )


def prepare(targets: int):
    """A service with so many targets on one agent, and a release."""
    import hashlib
    import uuid

    from django.utils import timezone

    from deployments.domain.actor import Actor
    from deployments.models import (
        Agent,
        Artifact,
        ConfigSnapshot,
        Environment,
        Region,
        Release,
        Service,
        Target,
        Team,
    )

    name = f"bench-{uuid.uuid4().hex[:8]}"
    team = Team.objects.create(name=name)
    environment = Environment.objects.create(name=name, tier="dev")
    regions = [Region.objects.create(environment=environment, name=f"r{n}", position=n) for n in range(3)]
    agent = Agent.objects.create(name=name, public_key=b"k" * 32, last_seen_at=timezone.now())
    service = Service.objects.create(team=team, name=name)
    Target.objects.bulk_create(
        Target(
            service=service,
            region=regions[n % 3],
            name=f"t-{n:04}",
            agent=agent,
            variables={"port": str(10_000 + n)},
        )
        for n in range(targets)
    )
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    release = Release.objects.create(
        service=service,
        version="1.0",
        created_by="bench",
        artifact=Artifact.objects.create(digest=digest, size_bytes=1),
        config=ConfigSnapshot.objects.create(
            service=service,
            number=1,
            digest=digest,
            created_by="bench",
            base={"process": {"command": ["run"]}, "env": {"PORT": "${target.port}"}},
        ),
    )
    return service, environment, release, Actor.system("bench")


def main() -> None:
    with database():
        run(20)
        for targets in (100, 500):
            figures = [run(targets) for _ in range(5)]
            costs = sorted(cost for cost, _ in figures)
            print(
                f"{targets} targets: {statistics.median(costs):.2f} ms a target "
                f"({costs[0]:.2f} to {costs[-1]:.2f}), {figures[0][1]} ticks; asked: 3 ms or less"
            )


if __name__ == "__main__":
    main()
