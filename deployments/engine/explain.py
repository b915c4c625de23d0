"""Sentences for what a rollout waits for."""

from collections.abc import Sequence
from datetime import datetime

from deployments.domain.states import RolloutState
from deployments.domain.waiting import Waiting
from deployments.engine.draft import Draft, DraftTarget

STEERING = ("pause", "rollback", "cancel")
SILENT_CHECK_SECONDS = 2
DOING = {
    "staging": "fetch and check the release",
    "activating": "start the release and pass their health check",
    "reverting": "go back to the last stable release",
}


def say_working(draft: Draft, targets: Sequence[DraftTarget], doing: str) -> Waiting:
    """Targets are at work; names the agents that have not been heard of for long."""
    batch = targets[0].facts.batch
    where = f"Batch {batch + 1} of {len(draft.batches)}: " if doing == "activating" else ""
    sentence = f"{where}{_count(len(targets), 'target')} to {DOING[doing]}: {_names(targets)}"
    silent = sorted({target.facts.agent for target in targets if target.facts.agent_silent})
    if silent:
        sentence += f". Not heard of for a while: agent {', '.join(silent[:4])}"
    deadlines = [target.task.expires_at for target in targets if target.task is not None]
    return Waiting(
        kind="tasks",
        subject=f"{doing}:{batch}",
        sentence=sentence,
        unblock=_steering(draft),
        deadline=min(deadlines, default=None),
    )


def say_baking(draft: Draft, position: int, until: datetime) -> Waiting:
    return Waiting(
        kind="bake",
        subject=f"bake:{position}",
        sentence=f"Batch {position + 1} of {len(draft.batches)} is watched until {until:%H:%M:%S} UTC",
        unblock=STEERING,
        deadline=until,
    )


def say_retrying(draft: Draft, position: int, when: datetime) -> Waiting:
    return Waiting(
        kind="retry",
        subject=f"retry:{position}",
        sentence=f"A failed step is tried again at {when:%H:%M:%S} UTC",
        unblock=_steering(draft),
        deadline=when,
    )


def say_blocked_by_capacity(draft: Draft, limit: int) -> Waiting:
    out = [target for target in draft.targets if target.out_of_service]
    return Waiting(
        kind="capacity",
        subject="capacity",
        sentence=(
            f"{_count(len(out), 'target')} out of service ({_names(out)}); no more than {limit} may be. "
            "It goes on when they are healthy again"
        ),
        who="whoever can mend these targets, or anyone who may roll back or cancel",
        unblock=_steering(draft),
    )


def say_paused(reason: str) -> Waiting:
    why = reason.rstrip(".")
    return Waiting(
        kind="person",
        subject="paused",
        sentence=f"Paused: {why}" if why else "Paused",
        who="anyone who may resume rollouts of this service",
        unblock=("resume", "rollback", "cancel"),
    )


def say_silent(draft: Draft, targets: Sequence[DraftTarget]) -> Waiting:
    """Targets that were healthy when last heard of: they are neither taken for healthy nor for failed."""
    agents = ", ".join(sorted({target.facts.agent for target in targets})[:4])
    return Waiting(
        kind="agent",
        subject=f"silent:{targets[0].facts.batch}",
        sentence=(
            f"Agent {agents} has not been heard of for a while; whether {_names(targets)} still serve is not "
            "known. It goes on when the agent is back"
        ),
        who="whoever runs the agent's machine, or anyone who may roll back or cancel",
        unblock=_steering(draft),
    )


def _steering(draft: Draft) -> tuple[str, ...]:
    return () if draft.state is RolloutState.ROLLING_BACK else STEERING


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(targets: Sequence[DraftTarget]) -> str:
    names = ", ".join(target.name for target in targets[:4])
    return f"{names} and {len(targets) - 4} more" if len(targets) > 4 else names
