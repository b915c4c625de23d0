"""What a rollout can be rolled back to: the choice with its reason, before anything is done."""

from typing import NamedTuple
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from deployments.domain import stable
from deployments.domain.states import RolloutState, TargetState
from deployments.models import Hold, Release, Rollout, RolloutTarget, Target

HISTORY = 100
"""Earlier rollouts that are looked through for a stable release."""


class WayBack(NamedTuple):
    release: Release | None
    why: str
    """The sentence that explains the choice, or why there is none and what to do."""
    others: tuple[Release, ...]
    """Older stable releases that may be named instead, newest first."""


def choose(rollout: Rollout, release_id: UUID | None = None) -> WayBack:
    """The release to leave this one for: the last stable one here, or `release_id` where it was stable."""
    # A rollback that was cancelled before it changed anything left nothing.
    moved = RolloutTarget.objects.filter(touched=True)
    earlier = (
        Rollout.objects.filter(
            service=rollout.service,
            environment=rollout.environment,
            id__lt=rollout.id,
            started_at__isnull=False,
        )
        .exclude(kind=Rollout.Kind.REPAIR)
        .select_related("release__artifact", "release__config", "release__service")
        .annotate(left=Exists(moved.filter(rollout__rolls_back=OuterRef("pk"))))
        .newest_first()[:HISTORY]
    )
    history = list(earlier)
    releases = {one.release_id: one.release for one in history}
    reasons = dict(
        Hold.objects.filter(release__in=releases, lifted_at__isnull=True).values_list("release", "reason")
    )
    past = [
        stable.Past(
            release=one.release_id,
            version=one.release.version,
            succeeded=one.state == RolloutState.SUCCEEDED,
            rolled_back=one.left,
            hold=reasons.get(one.release_id),
        )
        for one in history
    ]
    named = past if release_id is None else [one for one in past if one.release == release_id]
    choice = stable.choose(named, rollout.release_id)
    return WayBack(
        release=releases[choice.release] if choice.release else None,
        why=choice.why,
        others=tuple(releases[one] for one in stable.free(past, rollout.release_id) if one != choice.release),
    )


def standing(rollout: Rollout) -> Rollout | None:
    """The newest rollout here whose changes still stand: it moved targets and did not put them back."""
    moved = RolloutTarget.objects.filter(rollout=OuterRef("pk"), touched=True)
    return (
        Rollout.objects.filter(Exists(moved), service=rollout.service, environment=rollout.environment)
        .exclude(state=RolloutState.ROLLED_BACK)
        .exclude(kind=Rollout.Kind.REPAIR)
        .first()
    )


def in_the_way(rollout: Rollout) -> str:
    """Why a rollout that is not under way cannot be left for another; empty where its changes stand."""
    if rollout.is_active:
        now = rollout.state.replace("_", " ")
        return f"The rollout is {now}: there is nothing to roll back yet. Cancel it."
    found = standing(rollout)
    if found is None:
        return f"{rollout} left nothing changed; there is nothing to roll back."
    if found.pk != rollout.pk:
        return f"What runs now came with another rollout, {found}. Roll that one back."
    back = rollout.rollbacks.active().first()
    if back is not None:
        return f"It is being rolled back already, by {back.requested_by}: {back}."
    if not on_it(rollout).exists():
        return f"No target runs {rollout.release} any more; there is nothing to roll back."
    return ""


def on_it(rollout: Rollout) -> QuerySet[Target]:
    """Targets that a rollback puts back: also what it failed to put back, which was sent the old release."""
    stuck = rollout.targets.filter(touched=True, state=TargetState.FAILED).values("target")
    here = Target.objects.filter(service=rollout.service_id, region__environment=rollout.environment_id)
    return here.filter(Q(release=rollout.release_id) | Q(id__in=stuck))


def is_distrusted(rollout: Rollout) -> bool:
    """Whether leaving it puts its release on hold: it was to come in, and was not stable here before."""
    if rollout.kind != Rollout.Kind.DEPLOY:
        return False
    return not rollout.targets.filter(previous_release=rollout.release_id).exists()


def hold_in_the_way(rollout: Rollout) -> Hold | None:
    """A hold on a release that a changed target of a rollout under way would go back to."""
    held = Hold.objects.filter(
        lifted_at__isnull=True,
        release__in=rollout.targets.filter(touched=True).values("previous_release"),
    )
    return held.select_related("release__service").first()


def refused_by(hold: Hold) -> str:
    return (
        f"It would go back to {hold.release}, which is on hold: {hold.reason.rstrip('.')}. "
        "Lift that hold, or cancel the rollout and roll out a release that works."
    )
