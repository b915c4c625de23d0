"""A release: which bytes and which configuration, where they come from, where they run."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments import access
from deployments.domain import config
from deployments.domain.actor import Actor
from deployments.models import Release
from deployments.reads import holds, rollouts, targets
from portal.ui.errors import page
from portal.ui.format import ago, pretty, short, size
from portal.ui.lists import link, rollout_rows
from portal.ui.tiles import target_tiles


@page
def show(request: HttpRequest, actor: Actor, release_id: UUID) -> HttpResponse:
    return render_page(request, actor, release_id)


def render_page(
    request: HttpRequest, actor: Actor, release_id: UUID, refusal: str = "", status: int = 200
) -> HttpResponse:
    """The page, also where a form on it was refused."""
    queryset = Release.objects.select_related("service__team", "artifact", "config")
    release = access.get(actor, "release.view", queryset, id=release_id)
    now = timezone.now()
    history = rollouts.history(actor, release_id=release.id, before=request.GET.get("before", ""))
    hold = holds.of([release.id]).get(release.id)
    context = {
        "hold": hold,
        "held_since": ago(hold.created_at, now) if hold else "",
        "may_hold": access.allowed(actor, "release.hold", release),
        "refusal": refusal,
        "typed": request.POST.get("reason", ""),
        "release": release,
        "created": ago(release.created_at, now),
        "committed": ago(release.committed_at, now),
        "commit": short(release.commit_sha),
        "artifact_size": size(release.artifact.size_bytes),
        "configs": _configs(release),
        "places": _places(actor, release),
        "rollouts": rollout_rows(history.items, now),
        "more_rollouts": history.next_before and link(request, before=history.next_before),
        "may_deploy": access.allowed(actor, "rollout.create", release.service),
    }
    return render(request, "ui/release.html", context, status=status)


def _configs(release: Release) -> list[tuple[str, str]]:
    """The base, and what each environment gets; secrets stand there as references, which is all we have."""
    base: dict[str, Any] = release.config.base
    overlays: dict[str, Any] = release.config.overlays
    merged = [(name, pretty(config.merge(base, overlay))) for name, overlay in sorted(overlays.items())]
    return [("base", pretty(base)), *merged]


def _places(actor: Actor, release: Release) -> list[tuple[str, SafeString]]:
    found: dict[str, list[targets.TargetNow]] = {}
    for target in targets.running(actor, release):
        found.setdefault(f"{target.environment} / {target.region}", []).append(target)
    return [(place, target_tiles(there)) for place, there in found.items()]
