"""What is deployed and where to."""

from typing import Any

from django.db import models

from deployments.models.base import Row, slug_field
from deployments.models.teams import Team


class Environment(Row):
    class Tier(models.TextChoices):
        DEV = "dev"
        STAGE = "stage"
        PROD = "prod"

    class OnDrift(models.TextChoices):
        SHOW = "show"
        REPAIR = "repair"

    name = slug_field(unique=True)
    tier = models.CharField(max_length=8, choices=Tier.choices)
    strategy = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), blank=True)
    """Parameters that hold for every rollout here, unless the service says otherwise."""
    max_active = models.PositiveIntegerField(null=True, blank=True)
    """Rollouts that may move here at once, the rest waits in the queue; None: no limit."""
    on_drift = models.CharField(
        max_length=8, choices=OnDrift.choices, default=OnDrift.SHOW, db_default=OnDrift.SHOW
    )
    """Whether a target that runs something else than it should is only shown, or put right."""
    version = models.PositiveIntegerField(default=1, db_default=1)
    """Counts changes; the ETag."""

    class Meta:
        ordering = ("name",)
        default_permissions = ()
        constraints = (
            models.CheckConstraint(
                condition=models.Q(tier__in=("dev", "stage", "prod")), name="environment_tier_known"
            ),
            models.CheckConstraint(
                condition=models.Q(max_active__isnull=True) | models.Q(max_active__gt=0),
                name="environment_max_active_not_zero",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Region(Row):
    environment = models.ForeignKey(Environment, models.PROTECT, related_name="regions")
    name = slug_field()
    position = models.PositiveSmallIntegerField(default=0)
    """Regions go in this order where the strategy goes by region; least critical first."""

    class Meta:
        ordering = ("environment", "position", "name")
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=("environment", "name"), name="region_once_per_environment"),
        )

    def __str__(self) -> str:
        return f"{self.environment}/{self.name}"


class Service(Row):
    team = models.ForeignKey(Team, models.PROTECT, related_name="services")
    name = slug_field(unique=True)
    description = models.CharField(max_length=500, blank=True)
    repository_url = models.URLField(blank=True)
    strategy = models.JSONField(default=dict, blank=True)
    """`{"name": "rolling", ...parameters}`; what is left out has the environment's value, then the
    strategy's default. `environments` holds what is different in one: `{"prod": {"bake_seconds": 600}}`."""
    version = models.PositiveIntegerField(default=1)
    """Counts changes; the ETag."""

    class Meta:
        ordering = ("name",)
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Target(Row):
    """One instance of a service in a region (and so in an environment)."""

    class Health(models.TextChoices):
        HEALTHY = "healthy"
        UNHEALTHY = "unhealthy"
        UNKNOWN = "unknown"

    service = models.ForeignKey(Service, models.PROTECT, related_name="targets")
    region = models.ForeignKey(Region, models.PROTECT, related_name="targets")
    name = slug_field()
    agent = models.ForeignKey("Agent", models.PROTECT, null=True, blank=True, related_name="targets")
    variables = models.JSONField(default=dict, blank=True)
    """Flat strings, `${target.NAME}` in a configuration: `{"port": "9001"}`."""

    release = models.ForeignKey("Release", models.PROTECT, null=True, blank=True, related_name="+")
    """The release that was last sent here to run; what really runs stands in `reported`."""
    release_since = models.DateTimeField(null=True, blank=True)
    stable_release = models.ForeignKey("Release", models.PROTECT, null=True, blank=True, related_name="+")
    """The release of the last rollout that succeeded here: what a rollback goes back to."""

    health = models.CharField(max_length=16, choices=Health.choices, default=Health.UNKNOWN)
    reported = models.JSONField(default=dict, blank=True)
    """The agent's last TargetReport: what really runs."""
    reported_at = models.DateTimeField(null=True, blank=True)

    drift = models.CharField(max_length=16, blank=True, db_default="")
    """How what runs differs from what should, `domain.drift.Cause`; empty: it does not."""
    drift_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("region", "name")
        default_permissions = ()
        indexes = (
            models.Index(fields=("service", "region"), condition=~models.Q(drift=""), name="target_drifted"),
        )
        constraints = (
            models.UniqueConstraint(fields=("service", "region", "name"), name="target_once_per_region"),
        )

    def __str__(self) -> str:
        return self.name

    def facts(self) -> dict[str, str]:
        """The `target.*` and `region` placeholders of this target's configuration."""
        variables: dict[str, Any] = self.variables
        return {f"target.{key}": str(value) for key, value in variables.items()} | {
            "target.name": self.name,
            "region": self.region.name,
        }
