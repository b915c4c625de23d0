"""What can be deployed. These rows are never changed: the database refuses UPDATE."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from deployments.models.base import Row
from deployments.models.catalog import Service

SHA256 = Q(digest__regex=r"^sha256:[0-9a-f]{64}$")


class Artifact(Row):
    """Immutable bytes, kept in the artifact store under their digest."""

    digest = models.CharField(max_length=71, unique=True)
    size_bytes = models.BigIntegerField()
    media_type = models.CharField(max_length=100, default="application/gzip")
    filename = models.CharField(max_length=255, blank=True)
    uploaded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = (
            models.CheckConstraint(condition=SHA256, name="artifact_digest_sha256"),
            models.CheckConstraint(condition=Q(size_bytes__gt=0), name="artifact_not_empty"),
        )

    def __str__(self) -> str:
        return self.digest


class ArtifactUpload(Row):
    """Who handed these bytes in: whoever did may see and release them, however many others did too."""

    artifact = models.ForeignKey(Artifact, models.CASCADE, related_name="uploads")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("artifact", "user"), name="artifact_upload_once"),)

    def __str__(self) -> str:
        return f"{self.artifact} by {self.user}"


class ConfigSnapshot(Row):
    """One immutable version of a service's configuration: a base and an overlay per environment."""

    service = models.ForeignKey(Service, models.PROTECT, related_name="configs")
    number = models.PositiveIntegerField()
    """1, 2, 3, ... within the service."""
    base = models.JSONField()
    overlays = models.JSONField(default=dict)
    digest = models.CharField(max_length=71)
    created_by = models.CharField(max_length=150)

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=("service", "number"), name="config_number_once"),
            models.UniqueConstraint(fields=("service", "digest"), name="config_digest_once"),
            models.CheckConstraint(condition=SHA256, name="config_digest_sha256"),
        )

    def __str__(self) -> str:
        return f"{self.service} config {self.number}"


class Release(Row):
    """Artifact + ConfigSnapshot, with where they come from."""

    service = models.ForeignKey(Service, models.PROTECT, related_name="releases")
    version = models.CharField(max_length=100)
    artifact = models.ForeignKey(Artifact, models.PROTECT, related_name="releases")
    config = models.ForeignKey(ConfigSnapshot, models.PROTECT, related_name="releases")
    created_by = models.CharField(max_length=150)

    commit_sha = models.CharField(max_length=64, blank=True)
    commit_message = models.CharField(max_length=500, blank=True)
    branch = models.CharField(max_length=255, blank=True)
    author = models.CharField(max_length=255, blank=True)
    committed_at = models.DateTimeField(null=True, blank=True)
    repository_url = models.URLField(blank=True)
    pull_request_url = models.URLField(blank=True)
    build_url = models.URLField(blank=True)

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("service", "version"), name="release_version_once"),)

    def __str__(self) -> str:
        return f"{self.service} {self.version}"


class Hold(Row):
    """Keeps a release out: no rollout of it starts until somebody lifts the hold."""

    release = models.ForeignKey(Release, models.PROTECT, related_name="holds")
    rollout = models.ForeignKey("Rollout", models.PROTECT, null=True, blank=True, related_name="+")
    """Whose rollback placed it; None: a person did."""
    reason = models.CharField(max_length=500)
    placed_by = models.CharField(max_length=150)
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.CharField(max_length=150, blank=True)
    lift_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(
                fields=("release",), condition=Q(lifted_at__isnull=True), name="hold_one_open_per_release"
            ),
        )

    def __str__(self) -> str:
        return f"hold on {self.release}"
