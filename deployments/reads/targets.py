"""Targets, agents and what runs on them."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from deployments import access
from deployments.domain.actor import Actor
from deployments.models import Agent, Environment, LogChunk, Region, Release, RolloutTarget, Service, Target
from deployments.reads.page import Page, by_name, newest_first

LOG_CHUNKS_SHOWN = 40


class TargetNow(NamedTuple):
    """A target as it stands, with no more than a tile shows: there may be thousands."""

    id: UUID
    name: str
    health: str
    version: str | None
    """Of the release that was last sent there."""
    agent: str | None
    region: str
    environment: str


NOW = ("id", "name", "health", "release__version", "agent__name", "region__name", "region__environment__name")
"""The columns of TargetNow."""


@dataclasses.dataclass(frozen=True, slots=True)
class RegionTargets:
    name: str
    targets: Sequence[TargetNow]


@dataclasses.dataclass(frozen=True, slots=True)
class RegionCount:
    name: str
    targets: int


def get(actor: Actor, target_id: UUID) -> Target:
    """One target with what its page names; raises NotFound."""
    targets = Target.objects.select_related(
        "service__team",
        "region__environment",
        "agent",
        "release__artifact",
        "release__config",
        "stable_release",
    )
    return access.get(actor, "target.view", targets, id=target_id)


def by_environment(service: Service) -> dict[str, list[RegionTargets]]:
    """The targets of a service that the caller may see: environment name -> regions in order."""
    rows = Target.objects.filter(service=service).order_by("region__position", "region__name", "name")
    found: dict[str, dict[str, list[TargetNow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows.values_list(*NOW):
        target = TargetNow(*row)
        found[target.environment][target.region].append(target)
    return {
        environment: [RegionTargets(name, targets) for name, targets in regions.items()]
        for environment, regions in found.items()
    }


def running(actor: Actor, release: Release) -> list[TargetNow]:
    """Where a release runs now, by environment and region."""
    targets = access.visible(actor, Target.objects.filter(release=release))
    ordered = targets.order_by("region__environment__name", "region__name", "name")
    return [TargetNow(*row) for row in ordered.values_list(*NOW)]


def history(target: Target, before: str = "") -> Page[RolloutTarget]:
    """The rollouts that this target took part in, newest first."""
    rows = RolloutTarget.objects.filter(target=target).select_related("rollout__release", "previous_release")
    return newest_first(rows, before)


def agents(actor: Actor, after: str = "") -> Page[Agent]:
    """Agents that serve a target which the actor may see, with how many targets each serves."""
    rows: QuerySet[Agent] = access.visible(actor, Agent.objects.all())
    served = Target.objects.filter(agent=OuterRef("pk")).order_by().values("agent")
    # Counted for those on the page alone.
    counts = served.annotate(number=Count("id")).values("number")
    return by_name(rows.annotate(target_count=Coalesce(Subquery(counts), 0)), after, size=100)


def regions(actor: Actor, environments: Sequence[Environment]) -> dict[UUID, list[RegionCount]]:
    """Regions by environment, each with how many targets the actor may see there."""
    places = list(Region.objects.filter(environment__in=environments).order_by("position", "name"))
    # By the regions' ids, so that an index has all that is counted.
    visible = access.visible(actor, Target.objects.filter(region__in=[region.id for region in places]))
    counts = dict(visible.order_by().values_list("region_id").annotate(number=Count("*")))
    found: dict[UUID, list[RegionCount]] = defaultdict(list)
    for region in places:
        found[region.environment_id].append(RegionCount(region.name, counts.get(region.id, 0)))
    return found


def log_tail(target: Target) -> list[LogChunk]:
    """The newest chunks of what runs there printed, oldest first."""
    return list(LogChunk.objects.filter(target=target).order_by("-id")[:LOG_CHUNKS_SHOWN])[::-1]
