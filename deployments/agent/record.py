"""`process.json`: what should run on a target, and how to find it."""

from pathlib import Path

import msgspec

from deployments.agent.runtimes.base import Found


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    release_id: str
    task_id: str
    """Of the task that switched to it."""
    attempt: int
    token: str = ""
    found: Found = Found()
    started_at: float = 0.0
    restarts: int = 0
    ended: str = ""
    """How it ended before the last restart, and when."""
    ended_at: float = 0.0
    log_start: int = 0


def read(path: Path) -> Record:
    """Raises OSError; ValueError for what is no record."""
    return msgspec.json.decode(path.read_bytes(), type=Record)
