"""What services print, as their agents pass it on. A short tail, not an archive."""

from django.db import models
from django.db.models.functions import Now

from deployments.models.catalog import Target


class LogChunk(models.Model):
    """A few lines of one target's output; only the newest chunks of a target are kept."""

    id = models.BigAutoField(primary_key=True)
    target = models.ForeignKey(Target, models.CASCADE, related_name="log_chunks", db_index=False)
    at = models.DateTimeField(db_default=Now())
    text = models.TextField()
    dropped = models.PositiveIntegerField(default=0)
    """Lines that the agent left out before `text`."""

    class Meta:
        ordering = ("id",)
        default_permissions = ()
        indexes = (models.Index(fields=("target", "-id"), name="log_of_target"),)

    def __str__(self) -> str:
        return f"{self.target_id} #{self.pk}"
