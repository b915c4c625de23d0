"""What must hold whatever happened: `check` reads events, rows, effects and processes, and tells.

The history is rebuilt from the events, moment by moment: those of one transaction are one moment. Nothing
here asks the engine what it thinks.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from uuid import UUID

from django.db.models.functions import Now

from audit.models import Entry
from deployments.domain.states import MOVING, TASK_OPEN, TERMINAL
from deployments.models import Event, QueuedJob, Rollout, RolloutTarget, Target, Task
from deployments.strategies.base import size
from tests.faults import starts
from tests.faults.starts import Start

JOB_GRACE_SECONDS = 5
OUT = ("activating", "reverting")
MOVES = ("rollout.state", "batch.state", "target.state")


def check(rollout_ids: Sequence[UUID], effects: Path) -> list[str]:
    """Every violation as a sentence; none is an empty list. To be called when all rollouts have ended."""
    found: list[str] = []
    begun, _ = starts.read(effects)
    for rollout in Rollout.objects.filter(id__in=rollout_ids).select_related("plan", "service"):
        events = list(Event.objects.filter(rollout=rollout).order_by("number"))
        problems = [*_of_ending(rollout, events), *_of_limits(rollout, events, begun), *_of_audit(events)]
        found += [f"rollout {rollout.id}: {problem}" for problem in problems]
    found += _of_slots()
    found += starts.check(effects)
    found += _of_processes(effects)
    return found


def double_effects(violations: Sequence[str]) -> int:
    return sum("twice" in violation for violation in violations)


def _of_ending(rollout: Rollout, events: Sequence[Event]) -> Iterator[str]:
    """It ended once, in order, and holds nothing any more."""
    if [event.number for event in events] != list(range(1, rollout.event_count + 1)):
        yield "its events are not numbered from 1 without gaps"
    moves = [_move(event) for event in events if event.kind == "rollout.state"]
    ends = [after for _, after in moves if after in TERMINAL]
    if ends != [rollout.state] or moves[-1][1] != rollout.state:
        yield f"it is {rollout.state}, and its events end it as {ends}"
    if [before for before, _ in moves[1:]] != [after for _, after in moves[:-1]]:
        yield f"a move is missing among {moves}"
    open_tasks = Task.objects.filter(rollout=rollout, state__in=TASK_OPEN).count()
    if open_tasks:
        yield f"it left {open_tasks} open tasks"
    if rollout.lease_owner:
        yield "it left a lease"
    if rollout.next_check_at or rollout.waiting_on:
        yield "it has ended and still waits for something"


def _of_limits(rollout: Rollout, events: Sequence[Event], begun: Sequence[Start]) -> Iterator[str]:
    members = RolloutTarget.objects.filter(rollout=rollout).select_related("batch")
    batch_of = {str(one.id): str(one.batch_id) for one in members}
    asked = rollout.plan.body["params"]["max_unavailable"]
    history: dict[str, list[tuple[float, bool]]] = {target: [] for target in batch_of}
    yield from limits(
        batch_of, size(asked, len(batch_of), "max_unavailable") if asked else 0, events, history
    )
    yield from _of_moments(rollout, history, begun)


def limits(
    batch_of: Mapping[str, str],
    limit: int,
    events: Sequence[Event],
    history: Mapping[str, list[tuple[float, bool]]],
) -> Iterator[str]:
    """At no moment were more targets taken out of service than batch and limit allow.

    Where `limit` is 0 a batch is one. What a person had tried again may be at work beside the batch that is
    due. `history` gets, for each target, from when on (Unix seconds) it was out of service or was not.
    """
    limit = limit or max(Counter(batch_of.values()).values())
    states = dict.fromkeys(batch_of, "pending")
    touched: set[str] = set()
    reopened: set[str] = set()
    phase = "pending"
    for at, moment in groupby((e for e in events if e.kind in MOVES), lambda event: event.at):
        taken = set()
        for event in moment:
            before, after = _move(event)
            if event.kind == "rollout.state":
                phase = after
            elif event.kind == "batch.state":
                if (before, after) == ("failed", "running"):
                    reopened.add(event.data["id"])
                else:
                    reopened.discard(event.data["id"])
            else:
                target = event.data["id"]
                if states[target] != before:
                    was = states[target]
                    yield f"event {event.number} moves {event.data['name']} from {before}, it was {was}"
                if after in OUT and not _is_out(states[target], target in touched):
                    taken.add(target)
                states[target] = after
                touched |= {target} if after == "activating" else set()
                history[target].append((at.timestamp(), _is_out(after, target in touched)))
        activating = [target for target, state in states.items() if state == "activating"]
        if len({batch_of[target] for target in activating} - reopened) > 1:
            yield f"targets of several batches were activated at once: {sorted(activating)}"
        if taken and phase in ("running", "rolling_back"):
            # On the way back only what is on its way counts: what cannot be put back holds up no other.
            out = [
                target
                for target, state in states.items()
                if (state == "reverting" if phase == "rolling_back" else _is_out(state, target in touched))
            ]
            if len(out) > limit:
                yield f"{len(out)} targets were out of service while {phase}, the limit is {limit}"


def _of_moments(
    rollout: Rollout, history: Mapping[str, list[tuple[float, bool]]], begun: Sequence[Start]
) -> Iterator[str]:
    """Whenever a service in fact started, its target was counted as out of service.

    As long as its task was open, that is: what an agent does after it was given up, nobody counts.
    """
    tasks = {str(task.id): task for task in Task.objects.filter(rollout=rollout)}
    for start in begun:
        task = tasks.get(start.task)
        if task is None or (task.finished_at and task.finished_at.timestamp() < start.at):
            continue
        counted = [is_out for at, is_out in history[str(task.progress_id)] if at <= start.at]
        if not counted or not counted[-1]:
            yield f"a service of target {start.target} started at {start.at} and did not count as out"


def _is_out(state: str, touched: bool) -> bool:
    return state in OUT or (state == "failed" and touched)


def _of_audit(events: Sequence[Event]) -> Iterator[str]:
    """Every move has its audit entry, and no entry tells of a move that there was not."""
    moves = [event for event in events if event.kind in MOVES]
    seen = Counter((event.data["id"], _move(event)) for event in moves)
    entries = Entry.objects.filter(object_id__in={event.data["id"] for event in moves})
    told = Counter(
        (entry.object_id, (entry.before["state"], entry.after["state"]))
        for entry in entries
        if entry.before and entry.after and "state" in entry.before and "state" in entry.after
    )
    for subject, move in seen - told:
        yield f"{subject} went {move} without an audit entry"
    for subject, move in told - seen:
        yield f"the audit log tells that {subject} went {move}, no event does"


def _of_slots() -> Iterator[str]:
    """Of a service in an environment one rollout at a time moved, at any moment of the history."""
    moving: dict[tuple[UUID, UUID], UUID] = {}
    moves = Event.objects.filter(kind="rollout.state").select_related("rollout").order_by("id")
    for event in moves:
        slot = (event.rollout.service_id, event.rollout.environment_id)
        _, after = _move(event)
        if after in MOVING:
            if moving.setdefault(slot, event.rollout_id) != event.rollout_id:
                yield f"rollouts {moving[slot]} and {event.rollout_id} moved at the same time"
        elif moving.get(slot) == event.rollout_id:
            del moving[slot]


def _of_processes(effects: Path) -> Iterator[str]:
    """On each target runs one process at most, of a release that it was sent last; no job is stuck."""
    running = running_services(effects)
    sent: dict[UUID, list[Task]] = defaultdict(list)
    for task in Task.objects.exclude(kind="stage").order_by("id"):
        # What did not succeed, as far as the control plane knows, may or may not have come to pass.
        sent[task.target_id] = [task] if task.state == "succeeded" else [*sent[task.target_id], task]
    for target in Target.objects.all():
        found = running.pop(str(target.id), [])
        may = {str(task.release_id) if task.release_id else "" for task in sent[target.id]} or {""}
        if sent[target.id] and sent[target.id][0].state != "succeeded":
            may.add("")
        if len(found) > 1 or (found[0] if found else "") not in may:
            yield f"on {target.name} run releases {found}, it was sent {may}"
    if running:
        yield f"processes of unknown targets run: {running}"
    # A job that nobody acknowledged comes back when its time is up; one that does not even then is lost.
    late = Now() - timedelta(seconds=JOB_GRACE_SECONDS)
    if stuck := QueuedJob.objects.filter(taken_until__lt=late).count():
        yield f"{stuck} jobs were taken, not finished, and did not come back"


def running_services(effects: Path) -> dict[str, list[str]]:
    """Target id -> releases of the processes that run for it now, as the kernel knows them."""
    found: dict[str, list[str]] = defaultdict(list)
    mark = f"EFFECTS={effects}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
            if mark not in words:
                continue
        except OSError:
            continue
        pairs = dict(word.decode().split("=", 1) for word in words if b"=" in word)
        found[pairs["SLIPWAY_TARGET_ID"]].append(pairs["SLIPWAY_RELEASE_ID"])
    return found


def _move(event: Event) -> tuple[str, str]:
    return event.data["before"]["state"], event.data["after"]["state"]


def describe(rollout: Rollout) -> str:
    """All that is known of a rollout that went wrong, for whoever has to find out why."""
    lines = [
        f"rollout {rollout.id} {rollout.state}, {rollout.outcome} waits {json.dumps(rollout.waiting_on)}"
    ]
    for event in Event.objects.filter(rollout=rollout).order_by("number"):
        what = event.data.get("name", ""), event.data.get("before"), event.data.get("after")
        lines.append(
            f"  {event.at:%H:%M:%S.%f} {event.number} {event.kind} {what} {event.data.get('reason', '')}"
        )
    for task in Task.objects.filter(rollout=rollout).order_by("id"):
        when = f"{task.created_at:%H:%M:%S} to {task.finished_at and f'{task.finished_at:%H:%M:%S}'}"
        lines.append(f"  {task.kind} {task.id} on {task.target_id} {task.state} {task.error_code} {when}")
    return "\n".join(lines)
