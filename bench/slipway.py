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
        return world.seconds_between(began, rollout.finished_at)


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
