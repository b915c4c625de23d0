"""The audit log's rows. PostgreSQL refuses UPDATE, DELETE and TRUNCATE on them (migration 0001)."""

from django.db import models


class Entry(models.Model):
    """One action or one change of state. Knows names and ids, no foreign keys: it outlives its objects."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=models.functions.Now())
    actor_kind = models.CharField(max_length=16)
    actor_id = models.CharField(max_length=64)
    actor_name = models.CharField(max_length=150)
    verb = models.CharField(max_length=64)
    object_kind = models.CharField(max_length=32)
    object_id = models.CharField(max_length=64)
    object_name = models.CharField(max_length=300)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("id",)
        default_permissions = ()
        indexes = (models.Index(fields=("object_kind", "object_id", "id"), name="entry_of_object"),)

    def __str__(self) -> str:
        return f"{self.actor_name} {self.verb} {self.object_kind} {self.object_name}"
