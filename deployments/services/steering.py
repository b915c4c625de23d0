"""What commands on a rollout share: the locked row, the sentence of who and why, the commit."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec
from django.db import connection

from deployments import access, queueing
from deployments.domain.actions import CloseTask, MoveTarget
from deployments.domain.actor import Actor
from deployments.domain.states import TASK_OPEN, RolloutState, TargetState, TaskState
from deployments.engine.explain import say_paused
from deployments.engine.transition import Moves
from deployments.errors import MoveNotAllowed, StaleVersion
from deployments.models import Rollout, RolloutTarget
from deployments.services.planning import RELATED, UNTICKED


def locked(actor: Actor, verb: str, rollout_id: UUID, if_version: int | None) -> tuple[Rollout, Moves]:
    """The rollout, its row locked, and the means to move it; raises NotFound, NotAllowed, StaleVersion."""
    rollout = access.get(actor, verb, Rollout.objects.select_related("service__team"), id=rollout_id)
    rollout = (
        Rollout.objects.select_for_update(of=("self",), no_key=True)
        .select_related(*RELATED)
        .get(id=rollout.id)
    )
    if if_version is not None and if_version != rollout.event_count:
        raise StaleVersion
    if rollout.quarantined_at is not None and rollout.is_active and verb != "rollout.cancel":
        raise MoveNotAllowed(
            "The engine leaves this rollout alone, because looking at it failed each time. Ask an "
            "administrator to release its fault, or cancel it."
        )
    return rollout, Moves(rollout, actor=actor, now=database_now())


def commit(rollout: Rollout, moves: Moves) -> Rollout:
    """Record the moves and wake the engine."""
    moves.record()
    if rollout.is_active and rollout.quarantined_at is None:
        # Until the engine has looked: no rollout is without an answer, and none with a wrong one.
        waiting = say_paused(rollout.outcome) if rollout.state == RolloutState.PAUSED else UNTICKED
        waiting = msgspec.structs.replace(waiting, since=moves.now)
        # Should the wake-up be lost, the clock finds it.
        Rollout.objects.filter(pk=rollout.pk).update(
            waiting_on=msgspec.to_builtins(waiting), next_check_at=moves.now
        )
    queueing.tick(rollout.id)
    return Rollout.objects.select_related(*RELATED).get(id=rollout.id)


def close_tasks(
    rollout: Rollout, moves: Moves, reason: str, of: Iterable[RolloutTarget] | None = None
) -> None:
    """Cancel the open tasks of the rollout, or of these of its targets."""
    tasks = rollout.tasks.filter(state__in=TASK_OPEN)
    if of is not None:
        tasks = tasks.filter(progress__in=list(of))
    ids = tasks.order_by("id").values_list("id", flat=True)
    moves.close_tasks([CloseTask(task, TaskState.CANCELLED, reason) for task in ids])


def move_all(
    moves: Moves, rows: Iterable[RolloutTarget], to: TargetState, *, code: str = "", error: str = ""
) -> None:
    """Move targets, read with their `target`, from where they stand."""
    moves.move_targets(
        (
            MoveTarget(id=one.id, to=to, error_code=code, error=error),
            TargetState(one.state),
            one.target.name,
        )
        for one in rows
    )


def said(actor: Actor, reason: str) -> str:
    return f"{reason.strip()} ({actor.name})" if reason.strip() else f"by {actor.name}"


def words(rollout: Rollout) -> str:
    return rollout.state.replace("_", " ")


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
