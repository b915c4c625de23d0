"""Agents and the single-use tokens that they enrol with."""

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q

from deployments.models.base import Row, slug_field

SILENT_AFTER_HEARTBEATS = 3


class Agent(Row):
    name = slug_field(unique=True)
    public_key = models.BinaryField(max_length=32)
    """Ed25519; the private half never leaves the agent."""
    hostname = models.CharField(max_length=255, blank=True)
    software = models.CharField(max_length=64, blank=True)
    connected_to = models.CharField(max_length=64, blank=True)
    """The web process that holds its socket; empty while it is not connected."""
    connected_at = models.DateTimeField(null=True, blank=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("name",)
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def is_silent(self, now: datetime, heartbeat_seconds: float) -> bool:
        """Whether it missed three heartbeats; an agent that was never seen is silent."""
        limit = timedelta(seconds=SILENT_AFTER_HEARTBEATS * heartbeat_seconds)
        return self.last_seen_at is None or now - self.last_seen_at > limit


class JoinToken(Row):
    """Lets one agent enrol, once. Only its hash is kept."""

    digest = models.CharField(max_length=64, unique=True)
    agent_name = slug_field()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(Agent, models.PROTECT, null=True, blank=True, related_name="+")
    target_ids = models.JSONField(default=list)
    """Targets that the new agent will serve."""

    class Meta:
        default_permissions = ()
        constraints = (
            models.CheckConstraint(
                condition=Q(used_at__isnull=True) | Q(used_by__isnull=False), name="join_token_used_by_agent"
            ),
        )

    def __str__(self) -> str:
        return f"join token for {self.agent_name}"
