"""A service: where it runs, what is changing, what can be deployed."""

import dataclasses
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments import access
from deployments.domain.actor import Actor
from deployments.models import Service
from deployments.reads import drift, overview, rollouts, targets
from deployments.reads.page import newest_first
from portal.ui.errors import page
from portal.ui.format import ago
from portal.ui.lists import RolloutRow, link, release_rows, rollout_rows
from portal.ui.overview import CellView, cell_view
from portal.ui.policies import policy
from portal.ui.tiles import target_tiles


@dataclasses.dataclass(frozen=True, slots=True)
class DriftRow:
    id: UUID
    name: str
    sentence: str
    since: SafeString | str


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """An environment in which the service has targets."""

    cell: CellView
    active: list[RolloutRow]
    """What moves there, then what waits."""
    drifted: list[DriftRow]
    """The first of the targets on which something else runs than what was sent."""
    regions: list[tuple[str, SafeString]]


def get(actor: Actor, name: str, verb: str = "service.view") -> Service:
    return access.get(actor, verb, Service.objects.select_related("team"), name=name)


@page
def show(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    service = get(actor, name)
    now = timezone.now()
    by_environment = targets.by_environment(service)
    active = rollout_rows(rollouts.under_way(service), now)
    cells = overview.cells_of(service)
    drifted = drift.of_service(service) if any(cell.drifted for cell in cells) else {}
    places = [
        Place(
            cell_view(cell, now),
            [row for row in active if row.environment == cell.environment],
            [
                DriftRow(target.id, target.name, drift.sentence(target), ago(target.drift_since, now))
                for target in drifted.get(cell.environment, [])
            ],
            [(region.name, target_tiles(region.targets)) for region in by_environment[cell.environment]],
        )
        for cell in cells
        if cell.environment in by_environment
    ]
    history = rollouts.history(actor, service=name, before=request.GET.get("rollouts_before", ""))
    releases = newest_first(service.releases.all(), request.GET.get("releases_before", ""))
    context = {
        "service": service,
        "places": places,
        "policy": policy(service, [one for one in overview.environments() if one.name in by_environment]),
        "rollouts": rollout_rows(history.items, now),
        "more_rollouts": history.next_before and link(request, rollouts_before=history.next_before),
        "releases": release_rows(releases.items, now),
        "more_releases": releases.next_before and link(request, releases_before=releases.next_before),
        "may_deploy": access.allowed(actor, "rollout.create", service),
    }
    return render(request, "ui/service.html", context)
