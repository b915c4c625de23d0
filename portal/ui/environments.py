"""Environments: where to, in which regions, and what changed there last."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from deployments import access
from deployments.domain.actor import Actor
from deployments.models import Environment
from deployments.reads import overview, rollouts, targets
from portal.ui.errors import page
from portal.ui.lists import link, rollout_rows


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    environments = overview.environments()
    regions = targets.regions(actor, environments)
    rows = [
        (one, regions.get(one.id, []), sum(r.targets for r in regions.get(one.id, [])))
        for one in environments
    ]
    return render(request, "ui/environments.html", {"environments": rows})


@page
def show(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    environment = access.get(actor, "environment.view", Environment.objects.all(), name=name)
    history = rollouts.history(actor, environment=name, before=request.GET.get("before", ""))
    context = {
        "environment": environment,
        "regions": targets.regions(actor, [environment]).get(environment.id, []),
        "rollouts": rollout_rows(history.items, timezone.now()),
        "more_rollouts": history.next_before and link(request, before=history.next_before),
    }
    return render(request, "ui/environment.html", context)
