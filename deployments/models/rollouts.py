"""One release going to one environment: its plan, its progress and its history."""

from typing import Self

from django.db import models
from django.db.models import Q

from deployments.domain.states import (
    ACTIVE,
    MOVING,
    TASK_OPEN,
    WAITING_FOR_SLOT,
    BatchState,
    RolloutState,
    TargetState,
    TaskState,
)
from deployments.models.agents import Agent
from deployments.models.base import Row
from deployments.models.catalog import Environment, Service, Target
from deployments.models.releases import Release


def choices(states: type[RolloutState | BatchState | TargetState | TaskState]) -> list[tuple[str, str]]:
    return [(state.value, state.value.replace("_", " ")) for state in states]


def known(states: type[RolloutState | BatchState | TargetState | TaskState]) -> Q:
    return Q(state__in=sorted(state.value for state in states))


class RolloutQuerySet(models.QuerySet["Rollout"]):
    def active(self) -> Self:
        return self.filter(state__in=ACTIVE)

    def moving(self) -> Self:
        return self.filter(state__in=MOVING)

    def waiting_for_slot(self) -> Self:
        return self.filter(state__in=WAITING_FOR_SLOT)

    def newest_first(self) -> Self:
        return self.order_by("-id")

    def after(self, rollout: "Rollout") -> Self:
        """Later ones of the service there, but for repairs and what was withdrawn before it began."""
        later = self.filter(service=rollout.service_id, environment=rollout.environment_id, id__gt=rollout.id)
        return later.exclude(kind=Rollout.Kind.REPAIR).exclude(
            state__in=(RolloutState.SUPERSEDED, RolloutState.CANCELLED), started_at__isnull=True
        )


class Rollout(Row):
    class Kind(models.TextChoices):
        DEPLOY = "deploy"
        ROLLBACK = "rollback"
        REPAIR = "repair"

    class Priority(models.IntegerChoices):
        """The higher goes first."""

        LOW = 0, "low"
        NORMAL = 1, "normal"
        HOTFIX = 2, "hotfix"

    service = models.ForeignKey(Service, models.PROTECT, related_name="rollouts")
    environment = models.ForeignKey(Environment, models.PROTECT, related_name="rollouts")
    release = models.ForeignKey(Release, models.PROTECT, related_name="rollouts")
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.DEPLOY)
    rolls_back = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="rollbacks")
    retries = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="retried_by", db_index=False
    )
    """The rollout whose targets are tried again here."""
    priority = models.PositiveSmallIntegerField(
        choices=Priority.choices, default=Priority.NORMAL, db_default=Priority.NORMAL
    )
    state = models.CharField(max_length=16, choices=choices(RolloutState), default=RolloutState.PENDING)
    requested_by = models.CharField(max_length=150)
    request_id = models.CharField(max_length=64, blank=True)
    """Of the request that made it; follows into the engine's log lines, its tasks and the agents' logs."""
    reason = models.CharField(max_length=500, blank=True)
    outcome = models.CharField(max_length=1000, blank=True)
    """Why it ended, or why it stands: one sentence."""
    waiting_on = models.JSONField(null=True, blank=True)
    """`domain.waiting.Waiting` as JSON; None only at an end."""
    started_at = models.DateTimeField(null=True, blank=True)
    state_since = models.DateTimeField(db_default=models.functions.Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    event_count = models.PositiveIntegerField(default=0)
    """Number of the newest event; the ETag."""
    next_check_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    """When it has to be done; moved on by what it stood paused. None before it runs."""
    quarantined_at = models.DateTimeField(null=True, blank=True)
    """Since when the engine leaves it alone, because looking at it fails each time."""
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    fence = models.BigIntegerField(default=0)
    wake_again = models.BooleanField(default=False)
    """A tick came while another worker held the lease; the holder looks once more."""

    objects = RolloutQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(
                fields=("service", "environment"),
                condition=Q(state__in=sorted(MOVING)),
                name="rollout_one_moving",
            ),
            models.CheckConstraint(condition=known(RolloutState), name="rollout_state_known"),
        )
        indexes = (
            models.Index(fields=("service", "environment", "-id"), name="rollout_of_service"),
            models.Index(fields=("service", "-id"), name="rollout_newest_of_service"),
            models.Index(fields=("environment", "-id"), name="rollout_of_environment"),
            models.Index(fields=("state", "-id"), name="rollout_by_state"),
            models.Index(
                fields=("next_check_at",), condition=Q(next_check_at__isnull=False), name="rollout_due"
            ),
            models.Index(
                fields=("-priority", "id"),
                condition=Q(state__in=sorted(WAITING_FOR_SLOT)),
                name="rollout_queue",
            ),
            models.Index(
                fields=("service", "environment"),
                condition=Q(state__in=sorted(ACTIVE)),
                name="rollout_active",
            ),
        )

    def __str__(self) -> str:
        return f"{self.release} to {self.environment}"

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


class Plan(models.Model):
    """Immutable."""

    rollout = models.OneToOneField(Rollout, models.PROTECT, primary_key=True, related_name="plan")
    digest = models.CharField(max_length=71)
    body = models.JSONField()
    """`domain.plan.PlanBody`."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.digest


class Wave(Row):
    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="waves")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=100)

    class Meta:
        ordering = ("position",)
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("rollout", "position"), name="wave_position_once"),)

    def __str__(self) -> str:
        return self.name


class Batch(Row):
    wave = models.ForeignKey(Wave, models.PROTECT, related_name="batches")
    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="batches")
    position = models.PositiveIntegerField()
    """Over the whole rollout: 0, 1, 2, ..."""
    state = models.CharField(max_length=16, choices=choices(BatchState), default=BatchState.PENDING)
    started_at = models.DateTimeField(null=True, blank=True)
    activated_at = models.DateTimeField(null=True, blank=True)
    """When its last target became healthy; the bake counts from here."""
    finished_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    """When its targets have to be healthy; moved on by what the rollout stood paused."""

    class Meta:
        ordering = ("position",)
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=("rollout", "position"), name="batch_position_once"),
            models.CheckConstraint(condition=known(BatchState), name="batch_state_known"),
        )

    def __str__(self) -> str:
        return f"batch {self.position + 1}"


class RolloutTarget(Row):
    """How far one target has come in one rollout."""

    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="targets")
    batch = models.ForeignKey(Batch, models.PROTECT, related_name="targets")
    target = models.ForeignKey(Target, models.PROTECT, related_name="progress")
    position = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=choices(TargetState), default=TargetState.PENDING)
    state_since = models.DateTimeField(db_default=models.functions.Now())
    attempts = models.PositiveSmallIntegerField(default=0)
    """Tasks given for the step that it is in."""
    retry_at = models.DateTimeField(null=True, blank=True)
    previous_release = models.ForeignKey(Release, models.PROTECT, null=True, blank=True, related_name="+")
    """The stable release when the rollout was made, to revert to; None: there was none."""
    touched = models.BooleanField(default=False)
    """Whether an activation was dispatched, so that a rollback has something to undo."""
    error_code = models.CharField(max_length=64, blank=True)
    error = models.CharField(max_length=1000, blank=True)
    log_tail = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ("position",)
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=("rollout", "target"), name="rollout_target_once"),
            models.CheckConstraint(condition=known(TargetState), name="rollout_target_state_known"),
        )

    def __str__(self) -> str:
        return f"{self.target}: {self.state}"


class Task(Row):
    """One instruction to one agent for one target. A row first, a frame afterwards: the outbox."""

    class Kind(models.TextChoices):
        STAGE = "stage"
        ACTIVATE = "activate"
        REVERT = "revert"

    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="tasks")
    progress = models.ForeignKey(RolloutTarget, models.PROTECT, related_name="tasks")
    target = models.ForeignKey(Target, models.PROTECT, related_name="tasks")
    agent = models.ForeignKey(Agent, models.PROTECT, related_name="tasks")
    release = models.ForeignKey(Release, models.PROTECT, null=True, blank=True, related_name="+")
    """What is to be staged or activated; None in a revert to nothing."""
    kind = models.CharField(max_length=16, choices=Kind.choices)
    state = models.CharField(max_length=16, choices=choices(TaskState), default=TaskState.DISPATCHED)
    attempt = models.PositiveSmallIntegerField()
    fence = models.BigIntegerField()
    expires_at = models.DateTimeField()
    request_id = models.CharField(max_length=64, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    """When it was last written to the agent's socket."""
    cancel_sent_at = models.DateTimeField(null=True, blank=True)
    """When the agent was last told to give it up."""
    finished_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    error = models.CharField(max_length=1000, blank=True)
    log_tail = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ("id",)
        default_permissions = ()
        constraints = (
            models.CheckConstraint(condition=known(TaskState), name="task_state_known"),
            models.UniqueConstraint(
                fields=("progress",),
                condition=Q(state__in=sorted(TASK_OPEN)),
                name="task_one_open_per_target",
            ),
        )
        indexes = (
            models.Index(fields=("agent", "id"), condition=Q(state__in=sorted(TASK_OPEN)), name="task_open"),
            models.Index(
                fields=("agent", "expires_at"), condition=Q(state=TaskState.CANCELLED), name="task_cancelled"
            ),
            models.Index(fields=("rollout", "id"), name="task_of_rollout"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.id} (attempt {self.attempt})"


class TaskReport(models.Model):
    """What an agent said about a task: the inbox. The engine takes it up in the next tick."""

    id = models.BigAutoField(primary_key=True)
    task = models.ForeignKey(Task, models.PROTECT, related_name="reports")
    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="+")
    attempt = models.PositiveSmallIntegerField()
    fence = models.BigIntegerField()
    status = models.CharField(max_length=16)
    code = models.CharField(max_length=64, blank=True)
    message = models.CharField(max_length=1000, blank=True)
    log_tail = models.JSONField(default=list, blank=True)
    received_at = models.DateTimeField(db_default=models.functions.Now())
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("task", "attempt", "status"), name="report_once"),)
        indexes = (
            models.Index(fields=("rollout", "id"), condition=Q(taken_at__isnull=True), name="report_waiting"),
        )

    def __str__(self) -> str:
        return f"{self.task_id}: {self.status}"


class Event(models.Model):
    """Something that happened in a rollout, numbered without gaps. Immutable."""

    id = models.BigAutoField(primary_key=True)
    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="events")
    number = models.PositiveIntegerField()
    at = models.DateTimeField(db_default=models.functions.Now())
    kind = models.CharField(max_length=32)
    """`rollout.state`, `batch.state`, `target.state`, `rollout.note`, ..."""
    data = models.JSONField()

    class Meta:
        ordering = ("number",)
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("rollout", "number"), name="event_number_once"),)

    def __str__(self) -> str:
        return f"{self.number} {self.kind}"
