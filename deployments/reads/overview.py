"""The matrix of services and environments: what runs where, how it is, and what is changing."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Max, Min, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce

from deployments import access
from deployments.domain.actor import Actor
from deployments.domain.drift import Cause
from deployments.domain.states import ACTIVE
from deployments.models import Environment, Rollout, Service, Target, Team
from deployments.reads.page import by_name
from deployments.reads.rollouts import count_targets

TIERS = ("dev", "stage", "prod")
SERVICES_A_PAGE = 50
SHOWN = ("state", "service_id", "environment_id", "release__version")
"""What a cell says of a rollout."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One version that runs in a cell, and on how many targets."""

    release_id: UUID
    version: str
    targets: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The rollout of a service to an environment that moves, else the newest."""

    id: UUID
    state: str
    version: str
    is_active: bool
    done: int = 0
    failed: int = 0
    total: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    environment: str
    targets: int = 0
    healthy: int = 0
    unhealthy: int = 0
    drifted: int = 0
    """Targets on which something else runs than what was sent there."""
    drifts: tuple[Cause, ...] = ()
    """How they differ, the gravest first."""
    drift_since: datetime | None = None
    """Since when the first of them does."""
    running: tuple[Running, ...] = ()
    """Most targets first."""
    since: datetime | None = None
    latest: Latest | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    description: str
    team: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    environments: tuple[Environment, ...]
    lines: tuple[Line, ...]
    teams: tuple[str, ...]
    """Names of the teams that the actor may see, to filter by."""
    next_after: str = ""


def environments() -> list[Environment]:
    """Every environment, by tier and then by name: changes travel from left to right."""
    return sorted(Environment.objects.all(), key=lambda e: (TIERS.index(e.tier), e.name))


def matrix(actor: Actor, *, text: str = "", team: str = "", after: str = "") -> Matrix:
    """Read a page of the matrix in six queries, however many services and targets there are."""
    services = access.visible(actor, Service.objects.select_related("team"))
    if text:
        services = services.filter(Q(name__icontains=text) | Q(description__icontains=text))
    if team:
        services = services.filter(team__name=team)
    page = by_name(services, after, SERVICES_A_PAGE)
    columns = environments()
    cells = _cells(page.items, columns)
    return Matrix(
        environments=tuple(columns),
        lines=tuple(
            Line(
                name=service.name,
                description=service.description,
                team=service.team.name,
                cells=tuple(cells[service.id, column.id] for column in columns),
            )
            for service in page.items
        ),
        teams=tuple(
            access.visible(actor, Team.objects.all()).order_by("name").values_list("name", flat=True)
        ),
        next_after=page.next_before,
    )


def cells_of(service: Service) -> list[Cell]:
    """One line of the matrix, without the permission check: the caller has the service already."""
    columns = environments()
    cells = _cells([service], columns)
    return [cells[service.id, column.id] for column in columns]


def _cells(services: Iterable[Service], columns: list[Environment]) -> dict[tuple[UUID, UUID], Cell]:
    ids = [service.id for service in services]
    latest = _latest(ids, columns)
    counted: dict[tuple[UUID, UUID], list[Mapping[str, Any]]] = defaultdict(list)
    groups = (
        Target.objects.filter(service__in=ids)
        .order_by()
        .values("service_id", "region__environment_id", "release_id", "release__version")
        .annotate(
            targets=Count("id"),
            healthy=Count("id", filter=Q(health=Target.Health.HEALTHY)),
            unhealthy=Count("id", filter=Q(health=Target.Health.UNHEALTHY)),
            drifted=Count("id", filter=~Q(drift="")),
            drifts=ArrayAgg("drift", filter=~Q(drift=""), distinct=True, default=Value([])),
            drift_since=Min("drift_since", filter=~Q(drift="")),
            since=Max("release_since"),
        )
    )
    for group in groups:
        counted[group["service_id"], group["region__environment_id"]].append(group)
    return {
        (service, column.id): _cell(column, counted[service, column.id], latest.get((service, column.id)))
        for service in ids
        for column in columns
    }


def _cell(column: Environment, groups: list[Mapping[str, Any]], latest: Latest | None) -> Cell:
    rows: list[Mapping[str, Any]] = sorted(groups, key=lambda g: -g["targets"])
    sinces = [row["since"] for row in rows if row["since"]]
    drifts = {cause for row in rows for cause in row["drifts"]}
    return Cell(
        environment=column.name,
        targets=sum(row["targets"] for row in rows),
        healthy=sum(row["healthy"] for row in rows),
        unhealthy=sum(row["unhealthy"] for row in rows),
        drifted=sum(row["drifted"] for row in rows),
        drifts=tuple(cause for cause in Cause if cause in drifts),
        drift_since=min((row["drift_since"] for row in rows if row["drift_since"]), default=None),
        running=tuple(
            Running(
                release_id=row["release_id"],
                version=row["release__version"],
                targets=row["targets"],
            )
            for row in rows
            if row["release_id"]
        ),
        since=max(sinces, default=None),
        latest=latest,
    )


def _latest(service_ids: list[UUID], columns: list[Environment]) -> dict[tuple[UUID, UUID], Latest]:
    """The rollout of each pair that moves, else the newest; each found by an index."""
    newest = {f"in_{number}": _shown(column) for number, column in enumerate(columns)}
    pairs = Service.objects.filter(id__in=service_ids).order_by().values_list(*newest.values())
    ids = [rollout for row in pairs for rollout in row if rollout] if newest else []
    rollouts = Rollout.objects.filter(id__in=ids).select_related("release").only(*SHOWN)
    progress = count_targets([rollout.id for rollout in rollouts if rollout.state in ACTIVE])
    found = {}
    for rollout in rollouts:
        states = progress.get(rollout.id, {})
        found[rollout.service_id, rollout.environment_id] = Latest(
            id=rollout.id,
            state=rollout.state,
            version=rollout.release.version,
            is_active=rollout.is_active,
            done=states.get("reverted" if rollout.state == "rolling_back" else "healthy", 0),
            failed=states.get("failed", 0),
            total=sum(states.values()),
        )
    return found


def _shown(column: Environment) -> Coalesce:
    here = Rollout.objects.filter(service=OuterRef("pk"), environment=column)
    newest = here.order_by("-id").values("id")[:1]
    return Coalesce(Subquery(here.moving().order_by().values("id")[:1]), Subquery(newest))
