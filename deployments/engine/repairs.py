"""The repairs of a service in an environment that have ended: what the wait for the next one follows from."""

from uuid import UUID

from deployments.domain.drift import Repair
from deployments.models import Rollout

REMEMBERED = 5


def ended(service_id: UUID, environment_id: UUID) -> list[Repair]:
    """The newest first, and no more than tell how long to wait."""
    rows = Rollout.objects.filter(
        service=service_id, environment=environment_id, kind=Rollout.Kind.REPAIR, finished_at__isnull=False
    ).values_list("created_at", "finished_at")
    return [Repair(began, finished) for began, finished in rows.order_by("-id")[:REMEMBERED]]
