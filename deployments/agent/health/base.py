"""What a kind of health check is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deployments import protocol


class CheckFailed(Exception):
    """The service did not pass; the text says how, and may quote its answer: redact it before use."""


@dataclass(frozen=True)
class Subject:
    """What is checked: the specification, and where and how the service runs."""

    spec: protocol.HealthSpec
    cwd: Path
    env: Mapping[str, str]


class Check(Protocol):
    async def __call__(self, subject: Subject) -> None:
        """Pass by returning, fail by CheckFailed. The caller sets the time limit, by cancelling."""
