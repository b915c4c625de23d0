"""The way back: a rollout in flight turns round, one that has ended gets a rollout of its own."""

from typing import Any
from uuid import UUID

from django.db import transaction

from deployments.artifacts import store
from deployments.domain.actor import Actor
from deployments.domain.states import RolloutState
from deployments.engine import holds, way_back
from deployments.engine.transition import Moves
from deployments.errors import Invalid, MoveNotAllowed, NoStableRelease, NotFound, ReleaseOnHold
from deployments.models import Release, Rollout
from deployments.services import policies
from deployments.services.planning import plan_rollout
from deployments.services.steering import commit, locked, said

REASON_LETTERS = 500


@transaction.atomic
def roll_back_rollout(
    *,
    actor: Actor,
    rollout_id: UUID,
    reason: str,
    if_version: int | None = None,
    release_id: UUID | None = None,
) -> Rollout:
    """Put the targets back on their last stable release, and the release that they leave on hold.

    A rollout in flight turns round and is returned itself; one that has ended gets a rollout of the
    earlier stable release, or of `release_id` where that succeeded here before. Raises NoStableRelease,
    ReleaseOnHold, MoveNotAllowed, Invalid (also where the release does not fit the targets any more).
    """
    rollout, moves = locked(actor, "rollout.rollback", rollout_id, if_version)
    if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        return _turn_round(rollout, moves, actor, reason, release_id)
    if refusal := way_back.in_the_way(rollout):
        raise MoveNotAllowed(refusal)
    release, why, _ = way_back.choose(rollout, release_id)
    if release is None:
        raise NoStableRelease(why)
    _check_bytes(release)
    _hold(rollout, moves, actor, reason)
    moves.record()
    here = frozenset(way_back.on_it(rollout).values_list("id", flat=True))
    return plan_rollout(
        actor=actor,
        service=rollout.service,
        environment=rollout.environment,
        release=release,
        strategy=_strategy(rollout, len(here)),
        reason=_reason(reason, why),
        kind=Rollout.Kind.ROLLBACK,
        rolls_back=rollout,
        only=here,
        priority=Rollout.Priority.HOTFIX,
        if_busy="supersede",
    )


def _turn_round(
    rollout: Rollout, moves: Moves, actor: Actor, reason: str, release_id: UUID | None
) -> Rollout:
    if release_id is not None:
        raise Invalid(
            release="a rollout under way goes back to what each target ran before. Cancel it first to choose."
        )
    if (hold := way_back.hold_in_the_way(rollout)) is not None:
        raise ReleaseOnHold(way_back.refused_by(hold))
    _hold(rollout, moves, actor, reason)
    moves.move_rollout(RolloutState.ROLLING_BACK, reason=said(actor, reason), verb="rollout.rollback")
    return commit(rollout, moves)


def _hold(rollout: Rollout, moves: Moves, actor: Actor, reason: str) -> None:
    if not way_back.is_distrusted(rollout):
        return
    sentence = f"Rolled back in {rollout.environment}: {said(actor, reason)}"
    placed = holds.place(rollout.release_id, rollout_id=rollout.id, reason=sentence, actor=actor)
    moves.changes += [placed] if placed else []


def _check_bytes(release: Release) -> None:
    try:
        store.open_artifact(release.artifact.digest).close()
    except NotFound:
        raise NoStableRelease(
            f"The artifact of {release} is missing from the store, so it cannot be gone back to. "
            "Upload the same bytes again, or roll out another release."
        ) from None


def _reason(reason: str, why: str) -> str:
    """What the person said, cut where it is long, and why it goes where it goes."""
    said = reason.strip().rstrip(".")
    return f"{said[: REASON_LETTERS - len(why) - 2]}. {why}" if said else why


def _strategy(rollout: Rollout, total: int) -> dict[str, Any]:
    """The strategy of the rollout itself, which tolerates nothing and leaves what fails to a person."""
    params = policies.fitting(rollout.plan.body["params"], total)
    gentle = {"on_failure": "pause", "max_failures": 0, "max_failures_per_batch": None}
    gentle |= dict.fromkeys(("on_task_failure", "on_unhealthy", "on_timeout"))
    return params | gentle | {"name": rollout.plan.body["strategy"]}
