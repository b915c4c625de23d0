"""Rollouts: the list, and the live page of one with its fragments."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from deployments.domain.actor import Actor
from deployments.domain.states import RolloutState
from deployments.models import Rollout
from deployments.reads import overview, rollouts
from portal.ui.bars import bar
from portal.ui.errors import page
from portal.ui.format import ago, duration, short, words
from portal.ui.lists import asked, link, rollout_rows
from portal.ui.policies import plan_lines
from portal.ui.sentences import WAITS, lines
from portal.ui.steering import ACTIONS
from portal.ui.tiles import tiles

NEEDS_SOMEBODY = frozenset({"person", "agent", "capacity", "fault"})
"""Kinds of waits that do not end by themselves, or not soon."""


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    filters = asked(request, "service", "environment", "state", "before")
    found = rollouts.history(
        actor,
        service=filters["service"],
        environment=filters["environment"],
        state=filters["state"],
        before=filters["before"],
        size=50,
    )
    context = {
        "filters": filters,
        "is_filtered": any(filters.values()),
        "states": [("active", "active"), *((state.value, words(state)) for state in RolloutState)],
        "environments": overview.environments(),
        "rollouts": rollout_rows(found.items, timezone.now()),
        "more_rollouts": found.next_before and link(request, before=found.next_before),
    }
    return render(request, "ui/rollouts.html", context)


@page
def show(request: HttpRequest, actor: Actor, rollout_id: UUID) -> HttpResponse:
    # The row with its event_count is read before the targets: what happens in between comes again, live.
    rollout = rollouts.get(actor, rollout_id)
    progress = rollouts.progress(rollout)
    plan: dict[str, Any] = rollout.plan.body if hasattr(rollout, "plan") else {}
    failed = rollouts.failures(rollout)
    errors = {failure.id: failure.error for failure in failed}
    waves = [
        (
            wave.wave,
            [
                (part.batch, part.done, len(part.targets), tiles(rollout, part.targets, errors))
                for part in wave.batches
            ],
        )
        for wave in progress.waves
    ]
    context = _status(actor, rollout, progress) | {
        "waves": waves,
        "failures": failed,
        "events": lines(rollouts.events(rollout)),
        "actions": [ACTIONS[name] for name in rollouts.permitted(actor, rollout)],
        "plan_digest": rollout.plan.digest if hasattr(rollout, "plan") else "",
        "params": plan_lines(plan),
    }
    return render(request, "ui/rollout.html", context)


@page
def status(request: HttpRequest, actor: Actor, rollout_id: UUID) -> HttpResponse:
    """The header's fragment: state, what it waits for, progress and buttons."""
    rollout = rollouts.get(actor, rollout_id)
    return render(request, "ui/rollout_status.html", _status(actor, rollout, rollouts.summary(rollout)))


@page
def failures(request: HttpRequest, actor: Actor, rollout_id: UUID) -> HttpResponse:
    rollout = rollouts.get(actor, rollout_id)
    context = {"rollout": rollout, "failures": rollouts.failures(rollout)}
    return render(request, "ui/rollout_failures.html", context)


@page
def events(request: HttpRequest, actor: Actor, rollout_id: UUID) -> HttpResponse:
    """Lines of the event stream: those after a number, or the page before one."""
    rollout = rollouts.get(actor, rollout_id)
    after, before = (_number(request.GET.get(name, "")) for name in ("after", "before"))
    found = rollouts.events(rollout, after=after, before=before)
    return render(request, "ui/rollout_events.html", {"rollout": rollout, "events": lines(found)})


def _status(actor: Actor, rollout: Rollout, progress: rollouts.Progress) -> dict[str, Any]:
    now = timezone.now()
    waiting = rollouts.waiting_of(rollout)
    offered = set(rollouts.actions(actor, rollout, progress.counts))
    # Where somebody has to act, what helps stands beside the reason; else all buttons stand in the header.
    needs_somebody = waiting is not None and waiting.kind in NEEDS_SOMEBODY
    unblocking = [name for name in waiting.unblock if name in offered] if waiting and needs_somebody else []
    remaining = rollouts.estimate(progress.batches, now) if rollout.state == "running" else None
    ended = rollout.finished_at or (None if rollout.is_active else now)
    return {
        "rollout": rollout,
        "label": words(rollout.state),
        "created": ago(rollout.created_at, now),
        "waiting": waiting,
        "waits_for": WAITS.get(waiting.kind, (words(waiting.kind), "pending")) if waiting else (),
        "waiting_since": ago(waiting.since, now) if waiting else "",
        "deadline": ago(waiting.deadline, now) if waiting and waiting.deadline else "",
        "priority": "" if rollout.priority == Rollout.Priority.NORMAL else rollout.get_priority_display(),
        "elapsed": duration((ended or now) - rollout.started_at) if rollout.started_at else "",
        "is_ticking": bool(rollout.started_at and not ended),
        "remaining": duration(remaining) if remaining is not None else "",
        "remaining_until": now + (remaining or timedelta()),
        "done": progress.counts["healthy"] + progress.counts["reverted"],
        "failed": progress.counts["failed"],
        "skipped": progress.counts["skipped"],
        "total": progress.total,
        "batches_done": progress.batches_done,
        "batches_total": len(progress.batches),
        "bar": bar(progress.counts, progress.total),
        "unblocking": [ACTIONS[name] for name in unblocking],
        "offered": [ACTIONS[name] for name in ACTIONS if name in offered and name not in unblocking],
        "short_digest": short(rollout.plan.digest) if hasattr(rollout, "plan") else "",
    }


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0
