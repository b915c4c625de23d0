"""Answers kept for repeated requests."""

from datetime import timedelta
from typing import Self

from django.conf import settings
from django.db import models

KEPT = timedelta(hours=24)


class IdempotencyKeyQuerySet(models.QuerySet["IdempotencyKey"]):
    def outdated(self) -> Self:
        return self.filter(created_at__lte=models.functions.Now() - KEPT)


class IdempotencyKey(models.Model):
    """The first answer to a POST that carried an Idempotency-Key; kept for a day."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    request_digest = models.CharField(max_length=71)
    """Over method, path and body."""
    status = models.PositiveSmallIntegerField(null=True)
    """None while the first request is still at work."""
    body = models.TextField(blank=True)
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=models.functions.Now())

    objects = IdempotencyKeyQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("user", "key"), name="idempotency_key_once"),)

    def __str__(self) -> str:
        return self.key
