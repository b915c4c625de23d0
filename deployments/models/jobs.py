"""Waiting and taken jobs of the queue. Rows of wake-ups only: what must not be lost stands elsewhere."""

from django.db import models
from django.db.models.functions import Now


class QueuedJob(models.Model):
    """One call that the worker has yet to make. `deployments.broker` is the only reader and writer.

    A row waits while `taken_until` is null and is deleted when the worker acknowledges it. A taken row
    whose `taken_until` has passed belongs to a worker that died, and is handed out again.
    """

    id = models.BigAutoField(primary_key=True)
    queue = models.TextField()
    coalesce_key = models.TextField(null=True)  # noqa: DJ001  null never coalesces, "" would
    priority = models.SmallIntegerField(default=0, db_default=0)
    payload = models.TextField()
    available_at = models.DateTimeField(db_default=Now())
    taken_until = models.DateTimeField(null=True)
    taken_by = models.TextField(default="", db_default="")
    attempts = models.IntegerField(default=0, db_default=0)
    nudged = models.IntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["queue", "coalesce_key"],
                condition=models.Q(taken_until__isnull=True),
                name="queuedjob_one_waiting_per_key",
            ),
        ]
        indexes = [
            models.Index(
                models.F("queue"),
                models.F("priority").desc(),
                models.F("available_at"),
                models.F("id"),
                condition=models.Q(taken_until__isnull=True),
                name="queuedjob_take",
            ),
            models.Index(
                fields=["queue", "taken_until"],
                condition=models.Q(taken_until__isnull=False),
                name="queuedjob_expired",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.queue} #{self.pk}"


class JobFault(models.Model):
    """A job that failed, counted by what it was about; after some it is in quarantine until released."""

    id = models.BigAutoField(primary_key=True)
    function = models.TextField()
    subject = models.TextField()
    """Its first argument, the id of a rollout for a tick."""
    error = models.CharField(max_length=500)
    traceback = models.TextField()
    failures = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(db_default=Now())
    last_at = models.DateTimeField(db_default=Now())
    quarantined_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["function", "subject"],
                condition=models.Q(released_at__isnull=True),
                name="jobfault_one_open_per_subject",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.function} {self.subject}"
