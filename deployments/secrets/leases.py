"""The secrets that one task needs: references in its release's configuration, leased path by path."""

from typing import Any

from deployments.domain import config
from deployments.models import Task
from deployments.secrets import registry


def paths_for(task: Task) -> list[str]:
    """Paths in the environment values of the task's release, as they are in the rollout's environment."""
    if task.release is None:
        return []
    snapshot = task.release.config
    overlay: dict[str, Any] = snapshot.overlays.get(task.rollout.environment.name, {})
    merged = config.merge(snapshot.base, overlay)
    return sorted({path for path, _key in config.secret_refs(merged.get("env", {}))})


def leases_for(task: Task) -> dict[str, str]:
    """Path -> token that stands for the secret there; raises SecretUnavailable."""
    server = registry.get("vault")
    return {path: server.lease(path) for path in paths_for(task)}
