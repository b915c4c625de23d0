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
