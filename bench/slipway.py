"""Slipway's own rolling update: real processes, one agent for all targets, rows and events as always."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import artifact, plane, world
from bench.peers.layout import SERVE

BASE: dict[str, Any] = {
    "process": {"command": list(SERVE), "stop_seconds": 5},
    "files": {"app.json": '{"target": "${target.name}", "version": "${version}", "workers": 4}\n'},
    "health": {
        "kind": "exec",
        "command": ["grep", "-qx", "${version}", "../../current/VERSION"],
        "healthy_after": 1,
        "interval_ms": 50,
    },
}
"""As the peers have it: the same process, one configuration file, and a check that reads the version
through `current` once."""


@dataclass
class Fleet:
    """A service whose targets all run its last version, ready for the next."""

    world: world.World
    agent: plane.Running
    folder: Path
    artifact_bytes: int
    version: int = 0
    steps: str = ""
    """Where the last update's time went."""

    def update(self, batch: str = "10%") -> float:
        """Seconds from the call of the command to the end of the rollout to a new version."""
        self.version += 1
        name = f"1.{self.version}"
        archive = artifact.build(
            self.folder / f"{self.world.service.name}-{name}.tar.gz", name, self.artifact_bytes
        )
        release = world.release(self.world, name, world.stored_artifact(archive), BASE)
        began = datetime.now(UTC)
        rollout = world.roll_out(self.world, release, batch, self.agent)
        self.steps = steps(rollout)
        return world.seconds_between(began, rollout.finished_at)


STEPS = """
    SELECT task.kind = 'stage', count(DISTINCT progress.batch_id),
           extract(epoch FROM max(report.received_at) - min(task.sent_at))::float
    FROM deployments_task task
    JOIN deployments_rollouttarget progress ON progress.id = task.progress_id
    JOIN deployments_taskreport report ON report.task_id = task.id AND report.status = 'succeeded'
    WHERE task.rollout_id = %s
    GROUP BY task.kind, CASE WHEN task.kind = 'stage' THEN NULL ELSE progress.batch_id END
"""


def steps(rollout: Any) -> str:
    """How long the agent worked, by the rows' times; what is left to the whole is the control plane's."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(STEPS, [rollout.id])
        found = cursor.fetchall()
    staging = sum(seconds for is_stage, _, seconds in found if is_stage)
    activating = [seconds for is_stage, _, seconds in found if not is_stage]
    return f"agent: staging {staging:.2f} s, {len(activating)} batches {sum(activating):.2f} s"


@contextlib.contextmanager
def fleet(
    targets: int, url: str, folder: Path, *, artifact_bytes: int = artifact.SIZE_BYTES
) -> Iterator[Fleet]:
    """So many targets on one new agent, the first version deployed (and not measured)."""
    made = world.build(targets)
    name = made.service.name
    token = world.join_token(made, name)
    with plane.agent(name, url, token, folder / name, folder) as agent:
        world.wait_for_agent(made, agent)
        ready = Fleet(made, agent, folder, artifact_bytes)
        ready.update("100%")
        yield ready
