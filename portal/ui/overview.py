"""The first page: services by environments."""

import dataclasses
import hashlib
from datetime import datetime
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments.domain.actor import Actor
from deployments.reads import overview
from portal.ui.bars import Bar, bar
from portal.ui.errors import page
from portal.ui.format import ago, plural, words
from portal.ui.lists import asked

UNHEALTHY, HEALTHY, UNKNOWN, EMPTY = "unhealthy", "healthy", "unknown", "empty"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    environment: str
    targets: int
    version: str
    others: str
    state: str
    label: str
    health: str
    drift: str
    """How many targets drift and how; empty where none does."""
    drift_since: SafeString | str
    since: SafeString | str
    rollout_id: object = None
    rollout_note: str = ""
    rollout_state: str = ""
    progress: Bar | None = None


@page
def show(request: HttpRequest, actor: Actor) -> HttpResponse:
    filters = asked(request, "text", "team", "after")
    matrix = overview.matrix(actor, **filters)
    # What is shown, without the ages that change by themselves: a refresh that brings nothing is no refresh.
    seen = hashlib.sha256(repr(matrix).encode()).hexdigest()[:16]
    if request.GET.get("seen") == seen:
        return HttpResponse(status=204)
    now = timezone.now()
    context = {
        "matrix": matrix,
        "lines": [(line, [cell_view(cell, now) for cell in line.cells]) for line in matrix.lines],
        "filters": filters,
        "is_filtered": any(filters.values()),
        "seen": seen,
        "next": urlencode({**filters, "after": matrix.next_after}) if matrix.next_after else "",
    }
    template = "ui/overview_matrix.html" if request.headers.get("HX-Request") else "ui/overview.html"
    return render(request, template, context)


def cell_view(cell: overview.Cell, now: datetime) -> CellView:
    state, label = _condition(cell)
    first, *rest = cell.running or (None,)
    latest = cell.latest
    note = ""
    if latest is not None and latest.is_active:
        note = f"{latest.version} {words(latest.state)}, {latest.done} of {latest.total}"
    elif latest is not None and latest.state in ("failed", "rolled_back", "cancelled"):
        note = f"{latest.version} {words(latest.state)}"
    return CellView(
        environment=cell.environment,
        targets=cell.targets,
        version=first.version if first else "",
        others=", ".join(f"{one.version} on {one.targets}" for one in rest if one),
        state=state,
        label=label,
        health=f"{cell.healthy}/{cell.targets} healthy",
        drift=f"{cell.drifted} drifted: {', '.join(cell.drifts)}" if cell.drifted else "",
        drift_since=ago(cell.drift_since, now) if cell.drift_since else "",
        since=ago(cell.since, now),
        rollout_id=latest.id if latest and note else None,
        rollout_note=note,
        rollout_state=latest.state if latest else "",
        progress=bar({"healthy": latest.done, "failed": latest.failed}, latest.total)
        if latest and latest.is_active
        else None,
    )


def _condition(cell: overview.Cell) -> tuple[str, str]:
    """The state that colours a cell, and its words."""
    if not cell.running:
        return EMPTY, "nothing deployed yet"
    if cell.unhealthy:
        return UNHEALTHY, plural(cell.unhealthy, "target") + " unhealthy"
    if cell.healthy == cell.targets:
        return HEALTHY, "healthy"
    return UNKNOWN, f"{cell.targets - cell.healthy} unknown"
