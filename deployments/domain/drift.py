"""Drift: what runs on a target is not what was sent there. What kinds there are, and how to say them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from deployments import protocol

REPAIR_WAITS = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
"""After one, two, and three or more repairs in a row that did not hold."""
RELAPSE = timedelta(minutes=10)
"""What differs again so soon after a repair shows that the repair did not hold."""


class Cause(StrEnum):
    """The gravest comes first: of several the first is told."""

    RELEASE = "release"
    """Another release runs than was sent, none, or `current` leads to another."""
    PROCESS = "process"
    """Nothing runs, or what ended was started again and has not proved healthy yet."""
    FILES = "files"
    """Files of the artifact were changed."""
    CONFIG = "config"
    """Files of the configuration were changed."""


class Expected(msgspec.Struct, frozen=True):
    """What was last sent to a target to run; empty: nothing."""

    release_id: str = ""
    artifact_digest: str = ""
    config_digest: str = ""


def read(target_id: UUID, stored: Mapping[str, Any]) -> protocol.TargetReport:
    """The report as it stands in the row of its target; an empty one where its agent has said nothing yet."""
    return msgspec.convert({"target_id": str(target_id), **stored}, protocol.TargetReport)


def cause(expected: Expected, reported: protocol.TargetReport) -> Cause | None:
    """How what runs differs from what was sent; None when it does not. For targets that nobody moves."""
    if reported.release_id != expected.release_id:
        return Cause.RELEASE
    if not expected.release_id:
        return None
    if reported.current and reported.current != expected.release_id:
        return Cause.RELEASE
    if reported.artifact_digest and reported.artifact_digest != expected.artifact_digest:
        return Cause.RELEASE
    if reported.status != "running":
        return Cause.PROCESS
    if any(not _is_config(path) for path in reported.modified):
        return Cause.FILES
    if reported.modified or (reported.config_digest and reported.config_digest != expected.config_digest):
        return Cause.CONFIG
    return None


def _is_config(path: str) -> bool:
    return path.startswith("config/") or path == "release.json"


def sentence(cause: str, reported: protocol.TargetReport, release: str) -> str:
    """What is different, for people; `release` is the version that should run, empty for none."""
    match cause:
        case Cause.RELEASE:
            return _say_release(reported, release)
        case Cause.PROCESS:
            ended = f": it {reported.ended}" if reported.ended else ""
            again = f"; started again {_times(reported.restarts)}" if reported.restarts else ""
            return f"The process of {release} does not run{ended}{again}."
        case Cause.FILES:
            return f"Files of {release} were changed on the target: {_some(reported.modified)}."
        case Cause.CONFIG:
            what = _some(reported.modified) or "it is another one"
            return f"The configuration of {release} was changed on the target: {what}."
    return ""


def _say_release(reported: protocol.TargetReport, release: str) -> str:
    if not reported.release_id:
        return f"Nothing is deployed there any more, though {release} was."
    if not release:
        return f"A release runs there that nobody sent: {reported.release_id}."
    if reported.current == protocol.NO_LINK:
        return f"The link to {release} is gone."
    if reported.current and reported.current != reported.release_id:
        return f"The link to {release} was switched by hand: it leads to {reported.current}."
    return f"Another release runs than {release}, which was last sent there: {reported.release_id}."


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


class Repair(msgspec.Struct, frozen=True):
    """An earlier repair of the same target, which has ended."""

    began_at: datetime
    ended_at: datetime


def failures_in_a_row(repairs: Sequence[Repair], drifted_at: datetime) -> int:
    """How many of the newest repairs did not hold, newest first: what was to be repaired still differs, or
    differs again soon."""
    count, again_at, limit = 0, drifted_at, RELAPSE
    for repair in repairs:
        if again_at - repair.ended_at > limit:
            break
        count, again_at = count + 1, repair.began_at
        limit = RELAPSE + REPAIR_WAITS[-1]
    return count


def next_repair_at(repairs: Sequence[Repair], drifted_at: datetime) -> datetime:
    """When to repair what drifted at that time: at once, or later the more often it did not hold."""
    failures = failures_in_a_row(repairs, drifted_at)
    if not failures:
        return drifted_at
    return repairs[0].ended_at + REPAIR_WAITS[min(failures, len(REPAIR_WAITS)) - 1]


def outlook(repairs: Sequence[Repair], drifted_at: datetime, now: datetime) -> str:
    """When it is put right where the environment has it repaired, and why not at once."""
    failures = failures_in_a_row(repairs, drifted_at)
    due = next_repair_at(repairs, drifted_at)
    if not failures or due <= now:
        return "It is put right by a repair in a moment."
    held = "The last repair" if failures == 1 else f"The last {failures} repairs"
    return f"{held} did not hold; the next one starts at {due:%H:%M:%S} UTC."
