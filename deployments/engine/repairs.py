"""The repairs of targets that have ended: what the wait for the next one follows from."""

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from deployments.domain.drift import Repair
from deployments.models import Rollout, RolloutTarget

REMEMBERED = 5


def ended(target_ids: Collection[UUID]) -> dict[UUID, list[Repair]]:
    """Target -> its newest repairs, newest first, as many as tell how long to wait; one query."""
    rows = (
        RolloutTarget.objects.filter(target__in=target_ids, rollout__kind=Rollout.Kind.REPAIR)
        .order_by("-rollout_id")
        .values_list("target_id", "rollout__created_at", "rollout__finished_at")
    )
    found: dict[UUID, list[Repair]] = defaultdict(list)
    for target_id, began_at, ended_at in rows:
        if ended_at is not None and len(found[target_id]) < REMEMBERED:
            found[target_id].append(Repair(began_at, ended_at))
    return found
