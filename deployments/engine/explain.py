"""Sentences for what a rollout waits for."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from deployments.domain.queue import Slot
from deployments.domain.states import RolloutState
from deployments.domain.waiting import Waiting
from deployments.engine.draft import Draft, DraftTarget

STEERING = ("pause", "rollback", "cancel")
DOING = {
    "staging": "fetch and check the release",
    "activating": "start the release and pass their health check",
    "reverting": "go back to the last stable release",
}


def say_working(draft: Draft, targets: Sequence[DraftTarget], doing: str) -> Waiting:
    """Targets are at work; names the agents that have not been heard of for long."""
    batch = targets[0].facts.batch
    where = f"Batch {batch + 1} of {len(draft.batches)}: " if doing == "activating" else ""
    sentence = f"{where}{_count(len(targets), 'target')} to {DOING[doing]}: {names_of(targets)}"
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
            f"{_count(len(out), 'target')} out of service ({names_of(out)}); no more than {limit} may be. "
            "It goes on when they are healthy again"
        ),
        who="whoever can mend these targets, or anyone who may roll back or cancel",
        unblock=_steering(draft),
    )


def say_paused(reason: str, down: Sequence[DraftTarget] = (), ways: tuple[str, ...] = ()) -> Waiting:
    """`down`: what serves nobody meanwhile; `ways`: what can be done beside resume, rollback and cancel."""
    why = reason.rstrip(".")
    sentence = f"Paused: {why}" if why else "Paused"
    if down:
        sentence += f". Out of service meanwhile: {names_of(down)}"
    return Waiting(
        kind="person",
        subject="paused",
        sentence=sentence,
        who="anyone who may resume rollouts of this service",
        unblock=("resume", *ways, "rollback", "cancel"),
    )


def say_silent(draft: Draft, targets: Sequence[DraftTarget]) -> Waiting:
    """Agents that were not heard of: their targets are neither taken for healthy nor for failed."""
    agents = ", ".join(sorted({target.facts.agent for target in targets})[:4])
    ends = [end for end in (silent_deadline(draft, target) for target in targets) if end is not None]
    then = f"; then the policy is to {draft.params.on_silent}" if ends else ""
    return Waiting(
        kind="agent",
        subject=f"silent:{targets[0].facts.batch}",
        sentence=(
            f"Agent {agents} has not been heard of for a while; what {names_of(targets)} run is not known. "
            f"It goes on when the agent is back{then}"
        ),
        who="whoever runs the agent's machine, or anyone who may skip these targets, roll back or cancel",
        unblock=("skip", *_steering(draft)),
        deadline=min(ends, default=None),
    )


def silent_deadline(draft: Draft, target: DraftTarget) -> datetime | None:
    """When the policy acts on this silent agent; None: it waits."""
    if draft.params.on_silent == "wait":
        return None
    # Whoever resumes gives the agent its time anew.
    since = max(target.facts.agent_seen_at or draft.snapshot.state_since, draft.snapshot.state_since)
    return since + timedelta(seconds=draft.params.silent_seconds)


def say_queued(draft: Draft, slot: Slot) -> Waiting:
    """It waits for a slot; says its place, what is before it, and when it may be its turn."""
    behind = {
        "service": f"a rollout of the same service moves there ({slot.ahead})",
        "environment": f"{slot.limit} of at most {slot.limit} rollouts move there",
        "team": f"{slot.limit} of at most {slot.limit} rollouts of the team move",
        "all": f"{slot.limit} of at most {slot.limit} rollouts move",
        "": "it is next",
    }[slot.blocked_by]
    place = f"Number {slot.place} of {slot.waiting} in the queue for this environment: {behind}"
    if slot.estimate is not None:
        place += f". It may start about {slot.estimate:%H:%M} UTC"
    return Waiting(
        kind="queue",
        subject="queue",
        sentence=place,
        who="nobody needs to act; whoever may steer what moves now can end it"
        if slot.blocked_by == "service"
        else "nobody needs to act",
        unblock=("cancel",),
        since=draft.snapshot.created_at,
    )


def _steering(draft: Draft) -> tuple[str, ...]:
    return ("cancel",) if draft.state is RolloutState.ROLLING_BACK else STEERING


def share(number: int, total: int, what: str) -> str:
    """`3 of 12 targets were skipped`, `1 of 12 targets was skipped`."""
    return f"{number} of {total} targets {'was' if number == 1 else 'were'} {what}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def names_of(targets: Sequence[DraftTarget]) -> str:
    names = ", ".join(target.name for target in targets[:4])
    return f"{names} and {len(targets) - 4} more" if len(targets) > 4 else names
