"""What differs on targets from what should run there, for pages and API."""

from collections import defaultdict

from django.db.models import Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from deployments.domain import drift
from deployments.engine import repairs
from deployments.models import Environment, Service, Target

SHOWN = 20
"""Targets that drift which the page of a service names in each environment."""


def sentence(target: Target) -> str:
    """How what runs on `target` differs from what should; empty where it does not. Reads its `release`."""
    if not target.drift:
        return ""
    version = target.release.version if target.release else ""
    return drift.sentence(target.drift, drift.read(target.id, target.reported), version)


def outlook(target: Target) -> str:
    """When it will be put right; empty where there is nothing to, or the environment only shows it.

    Reads its `region__environment`, and one list of rollouts.
    """
    environment = target.region.environment
    if not target.drift_since or environment.on_drift != Environment.OnDrift.REPAIR:
        return ""
    if target.release_id is None or target.release_id != target.stable_release_id:
        return "It is not repaired by itself: what was sent there last has not proved itself yet."
    return drift.outlook(repairs.ended([target.id])[target.id], target.drift_since, timezone.now())


def of_service(service: Service) -> dict[str, list[Target]]:
    """Environment name -> the first targets that drift there, those that do so longest first."""
    place = Window(RowNumber(), partition_by="region__environment", order_by=("drift_since", "name"))
    rows = (
        Target.objects.exclude(drift="")
        .filter(service=service)
        .annotate(place=place)
        .filter(place__lte=SHOWN)
        .select_related("region__environment", "release")
        .defer("variables")
        .order_by("drift_since", "name")
    )
    found: dict[str, list[Target]] = defaultdict(list)
    for target in rows:
        found[target.region.environment.name].append(target)
    return found
