"""Faults of jobs as they are shown, with the rollouts that they are about."""

import dataclasses

from deployments import access, queueing
from deployments.domain.actor import Actor
from deployments.models import JobFault, Rollout
from deployments.reads.page import PAGE_SIZE, Page, by_number


@dataclasses.dataclass(frozen=True, slots=True)
class FaultOf:
    fault: JobFault
    rollout: Rollout | None
    """What a tick was about; None for other jobs."""

    @property
    def state(self) -> str:
        return state_of(self.fault)


def state_of(fault: JobFault) -> str:
    """`quarantined`, `retrying` or `released`."""
    if fault.released_at is not None:
        return "released"
    return "quarantined" if fault.quarantined_at is not None else "retrying"


def history(
    actor: Actor, *, released: bool = False, before: str = "", size: int = PAGE_SIZE
) -> tuple[list[FaultOf], str]:
    """Open or released faults, newest first, and the key of the next page ("" at the end).

    Two queries. Raises NotAllowed.
    """
    access.require(actor, "fault.view")
    faults = JobFault.objects.filter(released_at__isnull=not released)
    found: Page[JobFault] = by_number(faults, before, size)
    ids = [fault.subject for fault in found.items if fault.function == queueing.TICK]
    related = Rollout.objects.select_related("service", "environment", "release")
    rollouts = {str(rollout.pk): rollout for rollout in related.filter(pk__in=ids)}
    return [FaultOf(fault, rollouts.get(fault.subject)) for fault in found.items], found.next_before
