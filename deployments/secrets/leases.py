"""The secrets that one task needs: references in its release's configuration, leased path by path."""

from typing import Any

from django.conf import settings

from deployments.domain import secret_paths
from deployments.models import Task
from deployments.secrets import registry


def paths_for(task: Task) -> list[str]:
    """Paths in the environment values of the task's release, as they are in the rollout's environment.

    Raises Invalid for one that is not its service's own: a configuration may be older than the template.
    """
    if task.release is None:
        return []
    snapshot, rollout = task.release.config, task.rollout
    overlay: dict[str, Any] = snapshot.overlays.get(rollout.environment.name, {})
    paths = secret_paths.named_in(snapshot.base, overlay)
    allowed = secret_paths.prefix(
        settings.SLIPWAY.vault_path_template,
        team=rollout.service.team.name,
        service=rollout.service.name,
        environment=rollout.environment.name,
    )
    secret_paths.check(paths, allowed, f"config {snapshot.number}")
    return paths


def leases_for(task: Task) -> dict[str, str]:
    """Path -> token that stands for the secret there; raises Invalid, SecretUnavailable."""
    server = registry.get("vault")
    return {path: server.lease(path) for path in paths_for(task)}
