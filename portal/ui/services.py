"""A service: where it runs, what is changing, what can be deployed."""

import dataclasses

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import Invalid
from deployments.models import Service
from deployments.reads import overview, rollouts, targets
from deployments.reads.page import newest_first
from deployments.strategies import registry
from portal.ui.errors import page
from portal.ui.lists import link, release_rows, rollout_rows
from portal.ui.overview import CellView, cell_view
from portal.ui.tiles import TargetTile, target_tiles


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """An environment in which the service has targets."""

    cell: CellView
    regions: list[tuple[str, list[TargetTile]]]


def get(actor: Actor, name: str, verb: str = "service.view") -> Service:
    return access.get(actor, verb, Service.objects.select_related("team"), name=name)


@page
def show(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    service = get(actor, name)
    now = timezone.now()
    by_environment = targets.by_environment(service)
    places = [
        Place(
            cell_view(cell, now),
            [(region.name, target_tiles(region.targets, now)) for region in by_environment[cell.environment]],
        )
        for cell in overview.cells_of(service)
        if cell.environment in by_environment
    ]
    history = rollouts.history(actor, service=name, before=request.GET.get("rollouts_before", ""))
    releases = newest_first(service.releases.all(), request.GET.get("releases_before", ""))
    context = {
        "service": service,
        "places": places,
        "strategy": strategy_lines(service.strategy),
        "rollouts": rollout_rows(history.items, now),
        "more_rollouts": history.next_before and link(request, rollouts_before=history.next_before),
        "releases": release_rows(releases.items, now),
        "more_releases": releases.next_before and link(request, releases_before=releases.next_before),
        "may_deploy": access.allowed(actor, "rollout.create", service),
    }
    return render(request, "ui/service.html", context)


def strategy_lines(definition: dict[str, object]) -> list[tuple[str, object]]:
    """The strategy with every default filled in, as rows of name and value."""
    try:
        strategy, params = registry.parse(dict(definition))
    except Invalid:
        # It was valid when it was written; a plug-in that has gone must not take the page with it.
        return list(definition.items())
    return [("strategy", strategy.name), *params_lines(msgspec.to_builtins(params))]


def params_lines(params: dict[str, object]) -> list[tuple[str, object]]:
    return [(name.replace("_", " "), value) for name, value in params.items()]
