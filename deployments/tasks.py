"""Entry points of jobs: what django-q2 calls. Short, idempotent, safe to be called twice or late."""

from uuid import UUID

from deployments.engine import tick as engine


def tick(rollout_id: str) -> None:
    engine.tick(UUID(rollout_id))
