"""What a runtime is: it starts, finds again and stops one instance for one target."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from deployments import protocol
from deployments.agent.children import Exit


@dataclass(frozen=True)
class Launch:
    """Everything that a runtime needs for one start."""

    target_id: str
    spec: protocol.ReleaseSpec
    cwd: Path
    env: Mapping[str, str] = field(repr=False)
    """The whole environment, secrets included: for the process, and for nothing else."""
    log_path: Path
    token: str
    """Names this start; in the environment as SLIPWAY_START_TOKEN."""


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a runtime needs to find an instance again, after the agent was restarted."""

    pid: int = 0
    ticks: int = 0
    boot_id: str = ""
    name: str = ""
    """For runtimes whose instances have names: a unit, a container."""


class Instance(Protocol):
    """Something that runs."""

    @property
    def pid(self) -> int: ...

    @property
    def found(self) -> Found: ...

    async def wait(self) -> Exit:
        """Return when it has ended, whoever ended it."""

    async def stop(self, seconds: float) -> Exit:
        """End it: politely, then by force after `seconds`."""

    def forget(self) -> None:
        """Stop watching it without ending it."""


class Runtime(Protocol):
    def check(self, launch: Launch) -> None:
        """Raise TaskFailure for what can be seen to be wrong before the old release is stopped."""

    async def start(self, launch: Launch) -> Instance:
        """Raises TaskFailure (`start_failed`, `disk_full`)."""

    async def adopt(self, found: Found, token: str) -> Instance | None:
        """The instance of an earlier agent, None when it does not run any more."""
