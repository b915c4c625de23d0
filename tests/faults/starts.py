"""What the services themselves wrote down of their starts, against what was asked for and told of it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import UUID

from deployments.domain.states import TargetState, TaskState
from deployments.models import Event, Task

GIVEN_UP = (TaskState.FAILED, TaskState.EXPIRED)


@dataclass(frozen=True)
class Start:
    """A service process that came to life. The agent had begun it with this token, for this task."""

    at: float
    """Unix seconds."""
    target: str
    release: str
    token: str
    task: str
    attempt: int
    restarts: int
    pid: str
    alone: bool


def read(effects: Path) -> tuple[list[Start], list[str]]:
    """Every start in order of time, and the process ids of those that no agent had begun."""
    begun = {words[2]: words for words in lines(effects / "begun")}
    found, strangers = [], []
    for at, target, release, token, pid, alone in lines(effects / "starts"):
        if token not in begun:
            strangers.append(f"process {pid} of target {target} was started by nobody")
            continue
        _, _, _, task, attempt, restarts = begun[token]
        found.append(
            Start(
                at=float(at),
                target=target,
                release=release,
                token=token,
                task=task,
                attempt=int(attempt),
                restarts=int(restarts),
                pid=pid,
                alone=alone == "alone",
            )
        )
    return sorted(found, key=lambda start: start.at), strangers


def check(effects: Path) -> Iterator[str]:
    starts, strangers = read(effects)
    yield from strangers
    tasks = {str(task.id): task for task in Task.objects.all()}
    failed_by_itself = {words[0] for words in lines(effects / "failed")}
    yield from _of_tasks(starts, tasks)
    yield from repeated(starts, tasks, failures(), failed_by_itself)


def failures() -> dict[UUID, list[float]]:
    """When each target of a rollout was found to have failed, by the id of its progress."""
    found: dict[UUID, list[float]] = defaultdict(list)
    for event in Event.objects.filter(kind="target.state", data__after__state=TargetState.FAILED):
        found[UUID(event.data["id"])].append(event.at.timestamp())
    return found


def _of_tasks(starts: Sequence[Start], tasks: Mapping[str, Task]) -> Iterator[str]:
    """Each task started what it was about, and started something if it succeeded."""
    started: dict[str, set[str]] = defaultdict(set)
    for start in starts:
        started[start.task].add(start.release)
        if not start.alone:
            yield f"two instances ran at once on target {start.target}: a start twice, process {start.pid}"
    for task_id, releases in started.items():
        task = tasks.get(task_id)
        if task is None or task.kind == "stage" or releases != {str(task.release_id)}:
            yield f"task {task_id} ({task}) started releases {releases}"
    for task in tasks.values():
        wanted = task.kind != "stage" and task.release_id and task.state == TaskState.SUCCEEDED
        if wanted and str(task.id) not in started:
            yield f"task {task.id} succeeded, and started nothing"


def repeated(
    starts: Sequence[Start],
    tasks: Mapping[str, Task],
    failed_at: Mapping[UUID, Sequence[float]],
    failed_by_itself: set[str],
) -> Iterator[str]:
    """A release is started once for a target, unless the start before is known to have failed.

    And once more on the way back, where a rollout had brought what ran there before.

    Known is it by its task, which failed or ran out of time; by the rollout, which found the target failed in
    between; or by the process itself, whose end by itself the agent makes good with a restart. Services are
    no victims of the harness, so a restart of one that did not end by itself is a second effect.
    """
    for token, count in Counter(start.token for start in starts).items():
        if count > 1:
            yield f"start {token} happened twice ({count})"
    groups: dict[tuple[UUID, str, str, str], list[Start]] = defaultdict(list)
    for start in starts:
        if task := tasks.get(start.task):
            groups[task.rollout_id, task.kind, start.target, start.release].append(start)
    for (rollout, _, target, release), group in groups.items():
        for before, after in pairwise(group):
            task = tasks[before.task]
            found_failed = any(before.at < when < after.at for when in failed_at.get(task.progress_id, ()))
            given_up = before.task != after.task and task.state in GIVEN_UP
            if not (given_up or found_failed or before.token in failed_by_itself):
                yield (
                    f"rollout {rollout} started release {release} twice on target {target}: for task"
                    f" {before.task} ({task.state}), attempt {before.attempt}, and for task {after.task},"
                    f" attempt {after.attempt}, restart {after.restarts}"
                )


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []
