"""One rollout explained to whoever looks at it by hand: what is known, and what the planner would do now."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import assert_never
from uuid import UUID

import msgspec
from django.db import connection, transaction

from deployments import access, queueing
from deployments.domain.actions import (
    Action,
    CheckAt,
    CloseTask,
    Dispatch,
    MoveBatch,
    MoveRollout,
    MoveTarget,
    PlaceHold,
    Wait,
)
from deployments.domain.actor import Actor
from deployments.domain.snapshot import Snapshot
from deployments.domain.states import ACTIVE, MOVING, WAITING_FOR_SLOT
from deployments.domain.waiting import Waiting
from deployments.engine import slots
from deployments.engine.planner import plan
from deployments.engine.snapshot import load
from deployments.errors import Invalid
from deployments.models import Event, JobFault, Rollout, TaskReport
from deployments.reads.rollouts import count_targets

CANDIDATES_NAMED = 5
NAMES_SHOWN = 6
ID_DIGITS = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    now: datetime
    """By the database's clock, as all times here."""
    rollout: Rollout
    waiting: Waiting | None
    targets: dict[str, int]
    """Number by state."""
    fault: JobFault | None
    events: Sequence[Event]
    """The newest, oldest first."""
    untaken_reports: int
    """What agents said since the last look; the planner decides below without it."""
    steps: Sequence[str]
    """What the planner would do if it looked now, in sentences."""
    error: str
    """Why it cannot say; "" where it can."""


def find(actor: Actor, text: str) -> Rollout:
    """The rollout that `text` names: an id, the unique beginning of one, or `SERVICE/ENVIRONMENT`.

    The latter is the rollout that moves there, or the only one that waits. Raises Invalid that says what is
    wrong with the name.
    """
    related = Rollout.objects.select_related("service__team", "environment", "release", "plan")
    visible = access.visible(actor, related)
    if "/" in text:
        service, _, environment = text.partition("/")
        here = visible.filter(service__name=service, environment__name=environment, state__in=sorted(ACTIVE))
        found = list(here.filter(state__in=sorted(MOVING))) or list(here.order_by("id"))
        missing = f"No rollout of “{service}” to “{environment}” is active. Name one by its id."
    else:
        found = list(visible.filter(id__range=_range(text)).order_by("id")[: CANDIDATES_NAMED + 1])
        missing = f"There is no rollout whose id begins with “{text}”."
    if not found:
        raise Invalid(missing)
    if len(found) > 1:
        names = ", ".join(f"{one.id} ({one}, {one.state})" for one in found[:CANDIDATES_NAMED])
        more = " and more" if len(found) > CANDIDATES_NAMED else ""
        raise Invalid(f"“{text}” may be {names}{more}. Name one by its id.")
    return found[0]


def explain(actor: Actor, rollout: Rollout, *, events: int | None) -> Explanation:
    """Everything about it, with its newest `events` events (None: all). Reads only, and takes no lease."""
    access.require(actor, "rollout.view", rollout)
    now = _database_now()
    steps, error = _decide(rollout, now)
    shown = Event.objects.filter(rollout=rollout).order_by("-number")
    return Explanation(
        now=now,
        rollout=rollout,
        waiting=msgspec.convert(rollout.waiting_on, Waiting) if rollout.waiting_on else None,
        targets=count_targets([rollout.id]).get(rollout.id, {}),
        fault=JobFault.objects.filter(
            function=queueing.TICK, subject=str(rollout.id), released_at__isnull=True
        ).first(),
        events=list(shown[:events])[::-1],
        untaken_reports=TaskReport.objects.filter(rollout=rollout, taken_at__isnull=True).count(),
        steps=steps,
        error=error,
    )


def _range(text: str) -> tuple[UUID, UUID]:
    """The lowest and the highest id that begin so: what an index can look up."""
    digits = text.lower().replace("-", "")
    if not re.fullmatch(f"[0-9a-f]{{1,{ID_DIGITS}}}", digits):
        raise Invalid(f"“{text}” is no id of a rollout, nor the beginning of one, nor SERVICE/ENVIRONMENT.")
    return UUID(digits.ljust(ID_DIGITS, "0")), UUID(digits.ljust(ID_DIGITS, "f"))


def _decide(rollout: Rollout, now: datetime) -> tuple[list[str], str]:
    """What the planner says, or the error that it raises."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            # The database itself sees to it that nothing is changed.
            cursor.execute("SET TRANSACTION READ ONLY")
            slot = slots.peek(rollout.id, now) if rollout.state in WAITING_FOR_SLOT else None
            snapshot = load(rollout.id, slot)
            return say(plan(snapshot, now), snapshot), ""
    except Exception as error:
        # Whatever it is: this is what the engine stumbles over, and what the reader came for.
        return [], f"{type(error).__name__}: {error}".strip()


def _database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def say(actions: Iterable[Action], snapshot: Snapshot) -> list[str]:
    """Sentences for what the planner decided; what happens to several targets alike is one sentence."""
    names = {target.id: target.name for target in snapshot.targets}
    tasks = {target.task.id: target.name for target in snapshot.targets if target.task is not None}
    batches = {batch.id: batch.position + 1 for batch in snapshot.batches}
    said: dict[str, list[str]] = {}
    for action in actions:
        match action:
            case MoveRollout():
                sentence, name = f"The rollout becomes {_words(action.to)}{_why(action.reason)}", ""
            case MoveBatch():
                sentence, name = f"Batch {batches[action.id]} becomes {_words(action.to)}", ""
            case MoveTarget():
                sentence, name = f"To {_words(action.to)}{_why(action.error)}: ", names[action.id]
            case Dispatch():
                sentence = (
                    f"Task to {action.kind}, attempt {action.attempt}, until {_clock(action.expires_at)}: "
                )
                name = names[action.id]
            case CloseTask():
                sentence = f"The task ends as {_words(action.to)}{_why(action.reason)}: "
                name = tasks.get(action.id, str(action.id))
            case PlaceHold():
                sentence, name = f"The release goes on hold{_why(action.reason)}", ""
            case Wait():
                waits = f"It waits: {action.waiting.sentence}" if action.waiting else "It waits for nothing"
                sentence, name = waits, ""
            case CheckAt():
                when = _clock(action.when) if action.when else "when something happens, and not before"
                sentence, name = f"It looks again {'at ' if action.when else ''}{when}", ""
            case _:
                assert_never(action)
        said.setdefault(sentence, []).append(name)
    return [sentence + _list(subjects) for sentence, subjects in said.items()]


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def _words(state: str) -> str:
    return state.replace("_", " ")


def _why(reason: str) -> str:
    return f" ({reason.rstrip('.')})" if reason else ""


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"
