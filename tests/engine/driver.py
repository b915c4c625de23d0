"""Drives the engine in a test: the agents' answers, and ticks until nothing moves."""

import dataclasses
from collections.abc import Collection
from typing import Any

from django.db import connection
from django.utils import timezone

from deployments import protocol
from deployments.agents import inbox
from deployments.domain.states import TASK_OPEN, RolloutState
from deployments.engine.tick import tick
from deployments.models import Agent, Rollout, RolloutTarget, Service, Target, Task
from deployments.services.rollouts import start_rollout
from tests.fixtures import Person, World

TIMES = {
    "deployments_rollout": (
        "created_at", "state_since", "started_at", "next_check_at", "deadline_at", "lease_until"
    ),
    "deployments_batch": ("started_at", "activated_at", "deadline_at"),
    "deployments_rollouttarget": ("state_since", "retry_at"),
    "deployments_task": ("created_at", "expires_at", "sent_at"),
    "deployments_target": ("reported_at", "release_since"),
    "deployments_agent": ("last_seen_at", "connected_at"),
    "deployments_queuedjob": ("available_at",),
    "deployments_taskreport": ("received_at",),
}  # fmt: skip


def pass_time(seconds: float) -> None:
    """Let the rows be so much older: the engine goes by the database's clock, which cannot be set."""
    with connection.cursor() as cursor:
        for table, columns in TIMES.items():
            sets = ", ".join(f"{name} = {name} - %(by)s * interval '1 second'" for name in columns)
            cursor.execute(f"UPDATE {table} SET {sets}", {"by": seconds})


@dataclasses.dataclass
class Driver:
    world: World
    actor: Person

    def start(self, service: Service, version: str, **strategy: Any) -> Rollout:
        release = service.releases.filter(version=version).first() or self.world.release(service, version)
        return start_rollout(
            actor=self.actor,
            service_id=service.id,
            environment_id=self.world.prod.id,
            release_id=release.id,
            strategy=strategy,
            reason="test",
        )

    silent: bool = False
    """Whether the agents have fallen silent; else they were heard of just before each tick."""

    def tick(self, rollout: Rollout) -> Rollout:
        if not self.silent:
            Agent.objects.update(last_seen_at=timezone.now())
        tick(rollout.id)
        rollout.refresh_from_db()
        return rollout

    def later(self, rollout: Rollout, seconds: float) -> Rollout:
        """So much later, look again."""
        pass_time(seconds)
        return self.tick(rollout)

    def open_tasks(self, rollout: Rollout) -> list[Task]:
        return list(
            Task.objects.filter(rollout=rollout, state__in=TASK_OPEN).select_related("target").order_by("id")
        )

    def report(self, task: Task, status: str = "succeeded", **fields: Any) -> None:
        report = protocol.TaskReport(
            task_id=str(task.id), attempt=task.attempt, fence=task.fence, status=status, **fields
        )
        inbox.accept([(task.agent_id, report)])

    def answer(
        self,
        rollout: Rollout,
        *,
        failing: Collection[str] = (),
        kind: str = Task.Kind.ACTIVATE,
        code: str = "unhealthy",
    ) -> int:
        """Answer every open task, those of `kind` on `failing` targets with a failure; then tick."""
        tasks = self.open_tasks(rollout)
        for task in tasks:
            if task.target.name in failing and task.kind == kind:
                self.report(task, "failed", code=code, message=f"{code} on purpose")
            else:
                self.report(task)
        self.tick(rollout)
        return len(tasks)

    def finish(self, rollout: Rollout, *, failing: Collection[str] = ()) -> Rollout:
        """Answer until no task is open and nothing moves."""
        self.tick(rollout)
        for _ in range(1000):
            if not self.answer(rollout, failing=failing):
                return rollout
        raise AssertionError("the rollout does not come to rest")

    def deployed(self, service: Service, version: str) -> Rollout:
        rollout = self.finish(self.start(service, version))
        assert rollout.state == RolloutState.SUCCEEDED, rollout.outcome
        return rollout

    def states(self, rollout: Rollout) -> dict[str, str]:
        rows = RolloutTarget.objects.filter(rollout=rollout).select_related("target")
        return {row.target.name: row.state for row in rows}

    def running(self, service: Service) -> dict[str, str | None]:
        """Target name -> version that was last sent to it."""
        rows = Target.objects.filter(service=service).select_related("release")
        return {row.name: row.release.version if row.release else None for row in rows}
