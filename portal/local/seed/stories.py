"""One rollout told target by target, as the engine would have left it: rows, events and open tasks."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db.backends.utils import CursorWrapper

from deployments.domain import canonical
from deployments.domain.states import BatchState, RolloutState, TargetState
from deployments.domain.waiting import Waiting
from deployments.models import (
    Batch,
    Environment,
    Event,
    Plan,
    Release,
    Rollout,
    RolloutTarget,
    Service,
    Target,
    Task,
    Wave,
)
from deployments.strategies import registry
from portal.local.seed.ids import Kind, make
from portal.local.seed.size import Size

B, R, T = BatchState, RolloutState, TargetState
BY = "seeded-001"
WAVE = "all regions"
LASTED = timedelta(minutes=4)
TIMEOUT = timedelta(hours=1)
DEADLINE = timedelta(days=1)
ERROR = "The health check did not pass within 30 s: 503"
LOG = ["listening on 9000", "GET /healthz 503", "connection to the database refused"]
PORTION = 5000

STAGED_ONCE = frozenset({T.STAGED, T.ACTIVATING, T.HEALTHY, T.FAILED, T.REVERTING})
TOUCHED = STAGED_ONCE - {T.STAGED}
OPEN = {T.ACTIVATING: Task.Kind.ACTIVATE, T.REVERTING: Task.Kind.REVERT}
"""Targets at work, and the task that they have in hand."""
STANDING = frozenset({R.PAUSED, R.ROLLING_BACK, R.SUCCEEDED})
"""What a rollout came to after it had run."""


@dataclass(frozen=True, kw_only=True)
class Story:
    number: int
    """Of the rollout; ids follow from it."""
    at: datetime
    service: Service
    release: Release
    previous: Release | None
    state: RolloutState
    batches: Sequence[tuple[int, BatchState]]
    """How many targets each has, and how it stands."""
    targets: Sequence[tuple[Target, TargetState]]
    """In the order of the batches."""
    waiting: Waiting | None
    outcome: str = ""

    @property
    def has_run(self) -> bool:
        return self.state not in (R.PENDING, R.QUEUED)


@dataclass(frozen=True)
class _Line:
    """An event before it has its number."""

    kind: str
    id: UUID
    name: str
    before: str
    after: str
    reason: str = ""


class Writer:
    """Turns stories into rows."""

    def __init__(self, size: Size, cursor: CursorWrapper, environment: Environment) -> None:
        self.size = size
        self.cursor = cursor
        self.environment = environment

    def write(self, story: Story) -> None:
        rollout = self._rollout(story)
        wave = Wave(
            id=self._id(story, Kind.WAVE),
            created_at=story.at,
            rollout=rollout,
            position=0,
            name=WAVE,
        )
        batches = self._batches(story, rollout, wave)
        progress = self._progress(story, rollout, batches)
        lines = list(_lines(story, rollout, batches, progress))
        rollout.event_count = len(lines)
        rollout.save(force_insert=True)
        body = _plan(story, self.environment, batches, progress)
        Plan.objects.create(rollout=rollout, digest=canonical.digest(body), body=body)
        wave.save(force_insert=True)
        Batch.objects.bulk_create(batches)
        RolloutTarget.objects.bulk_create(progress, batch_size=PORTION)
        Task.objects.bulk_create(self._tasks(story, rollout, progress))
        Event.objects.bulk_create(_numbered(story, rollout, lines), batch_size=PORTION)
        self._run(story)

    def _rollout(self, story: Story) -> Rollout:
        ended = story.at + LASTED if story.waiting is None else None
        waiting = msgspec.structs.replace(story.waiting, since=story.at + LASTED) if story.waiting else None
        return Rollout(
            id=self._id(story, Kind.ROLLOUT),
            created_at=story.at,
            service=story.service,
            environment=self.environment,
            release=story.release,
            state=story.state,
            requested_by=BY,
            reason="Planned",
            outcome=story.outcome,
            waiting_on=msgspec.to_builtins(waiting),
            started_at=story.at if story.has_run else None,
            state_since=story.at,
            finished_at=ended,
            next_check_at=None if ended else self.size.until,
            deadline_at=self.size.until + DEADLINE if story.has_run and not ended else None,
            fence=self._fence() if story.has_run else 0,
        )

    def _fence(self) -> int:
        self.cursor.execute("SELECT nextval('slipway_fence')")
        row: tuple[int] = self.cursor.fetchone()
        return row[0]

    def _batches(self, story: Story, rollout: Rollout, wave: Wave) -> list[Batch]:
        return [
            Batch(
                id=self._id(story, Kind.BATCH, position),
                created_at=story.at,
                wave=wave,
                rollout=rollout,
                position=position,
                state=state,
                started_at=None if state is B.PENDING else story.at + LASTED * position / len(story.batches),
                activated_at=story.at + LASTED * (position + 1) / len(story.batches)
                if state is B.SUCCEEDED
                else None,
                finished_at=story.at + LASTED * (position + 1) / len(story.batches)
                if state in (B.SUCCEEDED, B.FAILED)
                else None,
            )
            for position, (_, state) in enumerate(story.batches)
        ]

    def _progress(self, story: Story, rollout: Rollout, batches: Sequence[Batch]) -> list[RolloutTarget]:
        of_position = [
            batch for batch, (count, _) in zip(batches, story.batches, strict=True) for _ in range(count)
        ]
        return [
            RolloutTarget(
                id=self._id(story, Kind.PROGRESS, position),
                created_at=story.at,
                rollout=rollout,
                batch=of_position[position],
                target=target,
                position=position,
                state=state,
                state_since=story.at + LASTED,
                attempts=1 if state in OPEN else 0,
                previous_release=story.previous,
                touched=state in TOUCHED,
                error_code="unhealthy" if state is T.FAILED else "",
                error=ERROR if state is T.FAILED else "",
                log_tail=LOG if state is T.FAILED else [],
            )
            for position, (target, state) in enumerate(story.targets)
        ]

    def _tasks(self, story: Story, rollout: Rollout, progress: Iterable[RolloutTarget]) -> list[Task]:
        """What the agents of targets at work have in hand."""
        at_work = [row for row in progress if row.state in OPEN and row.target.agent_id]
        return [
            Task(
                id=self._id(story, Kind.TASK, row.position),
                created_at=story.at + LASTED,
                rollout=rollout,
                progress=row,
                target=row.target,
                agent=row.target.agent,
                release=story.previous if row.state == T.REVERTING else story.release,
                kind=OPEN[TargetState(row.state)],
                attempt=1,
                fence=rollout.fence,
                expires_at=self.size.until + TIMEOUT,
            )
            for row in at_work
        ]

    def _run(self, story: Story) -> None:
        """Let the targets that it touched have its release, and those of a success have it as stable."""
        touched = [target.pk for target, state in story.targets if state in TOUCHED]
        runs = Target.objects.filter(pk__in=touched)
        reported = {"status": "running", "pid": 1000, "release_id": str(story.release.pk)}
        runs.update(
            release=story.release, release_since=story.at + LASTED, health="healthy", reported=reported
        )
        if story.state is R.SUCCEEDED:
            runs.update(stable_release=story.release)

    def _id(self, story: Story, kind: Kind, position: int = 0) -> UUID:
        # A rollout has its own number, as in the history; the rest counts beneath it.
        number = story.number if kind is Kind.ROLLOUT else story.number << 20 | position
        return make(self.size, story.at, kind, number)


def _plan(
    story: Story, environment: Environment, batches: Sequence[Batch], progress: Sequence[RolloutTarget]
) -> dict[str, Any]:
    """As `domain.plan.PlanBody` has it."""
    strategy, params = registry.parse({})
    return {
        "artifact_digest": story.release.artifact.digest,
        "config_digest": story.release.config.digest,
        "environment": environment.name,
        "kind": "deploy",
        "params": msgspec.to_builtins(params),
        "release": story.release.version,
        "service": story.service.name,
        "strategy": strategy.name,
        "waves": [
            {
                "name": WAVE,
                "batches": [
                    {"targets": [str(row.target_id) for row in progress if row.batch is batch]}
                    for batch in batches
                ],
            }
        ],
    }


def _lines(
    story: Story, rollout: Rollout, batches: Sequence[Batch], progress: Sequence[RolloutTarget]
) -> Iterator[_Line]:
    """What happened, in order."""
    way = [R.PENDING]
    way += [] if story.state is R.PENDING else [R.QUEUED]
    way += [R.RUNNING] if story.has_run else []
    yield _of_rollout(rollout, "", R.PENDING)
    yield from (_of_rollout(rollout, before, after) for before, after in itertools.pairwise(way))
    staged = [row for row in progress if row.state in STAGED_ONCE]
    for before, after in ((T.PENDING, T.STAGING), (T.STAGING, T.STAGED)):
        yield from (_of_target(row, before, after) for row in staged)
    for batch in batches:
        if batch.state == B.PENDING:
            continue
        rows = [row for row in staged if row.batch is batch]
        yield _of_batch(batch, B.PENDING, B.RUNNING)
        yield from (_of_target(row, T.STAGED, T.ACTIVATING) for row in rows)
        for row in rows:
            if row.state == T.HEALTHY:
                yield _of_target(row, T.ACTIVATING, T.HEALTHY)
            elif row.state in (T.FAILED, T.REVERTING):
                yield _of_target(row, T.ACTIVATING, T.FAILED, ERROR)
        if batch.state != B.RUNNING:
            yield _of_batch(batch, B.RUNNING, BatchState(batch.state))
    if story.state in STANDING:
        yield _of_rollout(rollout, R.RUNNING, story.state, story.outcome)
    yield from (_of_target(row, T.FAILED, T.REVERTING) for row in staged if row.state == T.REVERTING)


def _of_rollout(rollout: Rollout, before: str, after: str, reason: str = "") -> _Line:
    kind = "rollout.state" if before else "rollout.created"
    return _Line(kind, rollout.pk, str(rollout), before, after, reason)


def _of_batch(batch: Batch, before: BatchState, after: BatchState) -> _Line:
    return _Line("batch.state", batch.pk, str(batch), before, after)


def _of_target(row: RolloutTarget, before: TargetState, after: TargetState, reason: str = "") -> _Line:
    return _Line("target.state", row.pk, row.target.name, before, after, reason)


def _numbered(story: Story, rollout: Rollout, lines: Sequence[_Line]) -> Iterator[Event]:
    for number, line in enumerate(lines, 1):
        data: dict[str, Any] = {"id": str(line.id), "name": line.name, "after": {"state": line.after}}
        if line.before:
            data["before"] = {"state": line.before}
        if line.reason:
            data["reason"] = line.reason
        yield Event(
            rollout=rollout,
            number=number,
            at=story.at + LASTED * number / len(lines),
            kind=line.kind,
            data=data,
        )
