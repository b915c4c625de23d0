"""What a person can choose when they steer a rollout: targets to retry or skip, a release to go back to."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from django.conf import settings
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.utils import timezone

from deployments.domain.choices import SKIPPABLE, SKIPPABLE_SILENT
from deployments.domain.states import ACTIVE, RolloutState, TargetState
from deployments.engine import way_back
from deployments.models import Hold, Release, Rollout, RolloutTarget
from deployments.models.agents import SILENT_AFTER_HEARTBEATS

OFFERED = 200
"""Targets that are offered one by one; a program names as many as it likes."""

T = TargetState
NEVER_RETRIED = (RolloutState.ROLLED_BACK, RolloutState.SUPERSEDED)


@dataclasses.dataclass(frozen=True, slots=True)
class Choosable:
    """Targets that may be retried or skipped, those that need it most first."""

    rows: Sequence[RolloutTarget]
    total: int

    @property
    def is_whole(self) -> bool:
        return self.total <= len(self.rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """What rolling back would do, before it is done."""

    is_possible: bool
    why: str
    """What it would go back to and why, or what stands in the way and what to do."""
    release: Release | None = None
    """None in flight, where each changed target goes back to its own."""
    others: Sequence[Release] = ()
    """Older stable releases that may be named instead."""
    targets: Sequence[tuple[str, int]] = ()
    """Versions that targets would go back to, and how many; "" for none."""
    holds: bool = False
    """Whether the release that is left will be put on hold."""


def may_retry(rollout: Rollout, counts: Mapping[str, int]) -> bool:
    if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        return bool(counts.get(T.FAILED))
    if rollout.state in ACTIVE or rollout.state in NEVER_RETRIED or counts.get(T.REVERTED):
        return False
    undone = sum(number for state, number in counts.items() if state not in (T.HEALTHY, T.SKIPPED))
    return bool(undone) and not _is_held(rollout) and not Rollout.objects.after(rollout).exists()


def may_skip(rollout: Rollout, counts: Mapping[str, int]) -> bool:
    if rollout.state not in ACTIVE or rollout.state == RolloutState.ROLLING_BACK:
        return False
    if sum(counts.values()) - counts.get(T.SKIPPED, 0) < 2:
        return False
    if any(counts.get(state) for state in SKIPPABLE):
        return True
    return any(counts.get(state) for state in SKIPPABLE_SILENT) and _silent(rollout).exists()


def retryable(rollout: Rollout) -> Choosable:
    """Targets that `retry_targets` takes."""
    rows = rollout.targets.all()
    if rollout.state in ACTIVE:
        return _cut(rows.filter(state=T.FAILED))
    return _cut(rows.exclude(state__in=(T.HEALTHY, T.SKIPPED)))


def skippable(rollout: Rollout) -> Choosable:
    """Targets that `skip_targets` takes."""
    return _cut(rollout.targets.filter(state__in=SKIPPABLE) | _silent(rollout))


def can_return(rollout: Rollout) -> bool:
    """Whether an ended rollout is what stands here, and another release succeeded before it."""
    here = Rollout.objects.filter(service=rollout.service_id, environment=rollout.environment_id)
    earlier = here.filter(state=RolloutState.SUCCEEDED, id__lt=rollout.id).exclude(release=rollout.release_id)
    return not way_back.in_the_way(rollout) and earlier.exists()


def way_back_of(rollout: Rollout) -> Return:
    """What rolling this back would do now."""
    holds = way_back.is_distrusted(rollout) and not _is_held(rollout)
    if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        hold = way_back.hold_in_the_way(rollout)
        if hold is not None:
            return Return(is_possible=False, why=way_back.refused_by(hold))
        rows = rollout.targets.filter(touched=True).values_list("previous_release__version", flat=True)
        versions = Counter(version or "" for version in rows)
        return Return(
            is_possible=True,
            why="Each target that was changed goes back to what it ran before."
            if versions
            else "No target has been changed yet; the rollout ends.",
            targets=versions.most_common(),
            holds=holds,
        )
    if why := way_back.in_the_way(rollout):
        return Return(is_possible=False, why=why)
    release, why, others = way_back.choose(rollout)
    return Return(is_possible=release is not None, why=why, release=release, others=others, holds=holds)


def _is_held(rollout: Rollout) -> bool:
    return Hold.objects.filter(release=rollout.release_id, lifted_at__isnull=True).exists()


def _silent(rollout: Rollout) -> QuerySet[RolloutTarget]:
    """Targets that may be skipped because nobody hears of their agent; as `Agent.is_silent` says of each."""
    silence = timedelta(seconds=SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds)
    last_heard = Q(target__agent__last_seen_at__lt=timezone.now() - silence)
    # No agent, or one that was never seen.
    never_heard = Q(target__agent__last_seen_at__isnull=True)
    return rollout.targets.filter(last_heard | never_heard, state__in=SKIPPABLE_SILENT)


def _cut(rows: QuerySet[RolloutTarget]) -> Choosable:
    order = Case(
        When(state=T.FAILED, then=Value(0)),
        When(state=T.ACTIVATING, then=Value(1)),
        default=Value(2),
        output_field=IntegerField(),
    )
    shown = rows.select_related("target__region").defer("log_tail", "target__reported", "target__variables")
    found = list(shown.order_by(order, "position")[: OFFERED + 1])
    total = len(found) if len(found) <= OFFERED else rows.count()
    return Choosable(found[:OFFERED], total)
