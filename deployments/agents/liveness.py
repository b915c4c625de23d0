"""Which agents have fallen silent."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q, QuerySet

from deployments.models import Agent
from deployments.models.agents import SILENT_AFTER_HEARTBEATS


def silent(now: datetime) -> QuerySet[Agent]:
    """Agents that missed three heartbeats or were never seen; revoked ones do not count."""
    limit = now - timedelta(seconds=SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds)
    return Agent.objects.filter(Q(last_seen_at__isnull=True) | Q(last_seen_at__lt=limit), revoked_at=None)
