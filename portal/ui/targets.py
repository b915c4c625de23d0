"""A target: what runs here, since when, from which commit."""

import dataclasses
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments.domain.actor import Actor
from deployments.models import Target
from deployments.reads import drift, targets
from portal.settings import SLIPWAY
from portal.ui.errors import page
from portal.ui.format import ago, short, words
from portal.ui.lists import link


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """The target's part in one rollout."""

    rollout_id: UUID
    version: str
    before: str
    state: str
    label: str
    when: SafeString | str
    error: str


@page
def show(request: HttpRequest, actor: Actor, target_id: UUID) -> HttpResponse:
    target = targets.get(actor, target_id)
    now = timezone.now()
    history = targets.history(target, request.GET.get("before", ""))
    agent = target.agent
    context = (
        _log(target)
        | _drift(target, now)
        | {
            "health": target.health if target.release else "empty",
            "since": ago(target.release_since, now),
            "commit": short(target.release.commit_sha) if target.release else "",
            "reported_at": ago(target.reported_at, now),
            "reported": _reported(target, now),
            "agent": agent,
            "agent_seen": ago(agent.last_seen_at, now) if agent else "",
            "agent_state": agent_state(agent.is_silent(now, SLIPWAY.heartbeat_seconds)) if agent else "",
            "history": [
                Part(
                    rollout_id=row.rollout_id,
                    version=row.rollout.release.version,
                    before=row.previous_release.version if row.previous_release else "empty",
                    state=row.state,
                    label=words(row.state),
                    when=ago(row.state_since, now),
                    error=row.error,
                )
                for row in history.items
            ],
            "more_history": history.next_before and link(request, before=history.next_before),
        }
    )
    return render(request, "ui/target.html", context)


@page
def log(request: HttpRequest, actor: Actor, target_id: UUID) -> HttpResponse:
    """The tail of the log; nothing at all (204) while it has not grown."""
    target = targets.get(actor, target_id)
    context = _log(target)
    if request.GET.get("seen") == str(context["log_seen"]):
        return HttpResponse(status=204)
    return render(request, "ui/target_log.html", context | {"target": target})


@page
def drift_note(request: HttpRequest, actor: Actor, target_id: UUID) -> HttpResponse:
    """Whether and how it has drifted, as a fragment."""
    return render(request, "ui/target_drift.html", _drift(targets.get(actor, target_id), timezone.now()))


def agent_state(silent: bool) -> str:
    return "silent" if silent else "connected"


def _log(target: Target) -> dict[str, Any]:
    chunks = targets.log_tail(target)
    return {
        "log_chunks": chunks,
        "log_seen": chunks[-1].id if chunks else 0,
    }


def _drift(target: Target, now: datetime) -> dict[str, Any]:
    return {
        "target": target,
        "environment": target.region.environment,
        "drift": drift.sentence(target),
        "drift_since": ago(target.drift_since, now),
        "drift_outlook": drift.outlook(target),
    }


def _reported(target: Target, now: datetime) -> list[tuple[str, SafeString | str]]:
    report: dict[str, Any] = target.reported or {}
    started = report.get("started_at") or 0
    rows: list[tuple[str, SafeString | str]] = [("process", str(report.get("status", "not reported")))]
    if report.get("pid"):
        rows.append(("process id", str(report["pid"])))
    if started:
        rows.append(("started", ago(datetime.fromtimestamp(float(started), UTC), now)))
    if report.get("restarts"):
        rows.append(("restarts", str(report["restarts"])))
    return rows
