"""Teams own services; membership decides who sees and does what."""

from django.conf import settings
from django.db import models

from deployments.models.base import Row, slug_field


class Team(Row):
    name = slug_field(unique=True)
    title = models.CharField(max_length=200, blank=True)
    max_active = models.PositiveIntegerField(null=True, blank=True)
    """Rollouts of the team that may move at once; None: as many as there are."""

    class Meta:
        ordering = ("name",)
        default_permissions = ()
        permissions = (
            ("view_team", "See the team's services and rollouts"),
            ("deploy_team", "Start, pause, resume, cancel and roll back the team's rollouts"),
            ("manage_team", "Change the team's services, targets and members"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(max_active__isnull=True) | models.Q(max_active__gt=0),
                name="team_max_active_not_zero",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Membership(Row):
    """A person's part in a team; projected into guardian's rows by `access.project`."""

    class Role(models.TextChoices):
        VIEWER = "viewer"
        DEPLOYER = "deployer"
        OWNER = "owner"

    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("team", "user"), name="membership_once_per_team"),
            models.CheckConstraint(
                condition=models.Q(role__in=("viewer", "deployer", "owner")), name="membership_role_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} in {self.team}: {self.role}"
