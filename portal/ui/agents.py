"""Agents: who serves the targets, and who has gone silent."""

import dataclasses
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from deployments.domain.actor import Actor
from deployments.models import Agent
from deployments.reads import targets
from portal.settings import SLIPWAY
from portal.ui.errors import page
from portal.ui.format import ago
from portal.ui.lists import asked, link


@dataclasses.dataclass(frozen=True, slots=True)
class AgentRow:
    name: str
    state: str
    hostname: str
    software: str
    seen: SafeString | str
    connected: SafeString | str
    targets: int


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    now = timezone.now()
    found = targets.agents(actor, asked(request, "after")["after"])

    def row(agent: Any) -> AgentRow:
        return AgentRow(
            name=agent.name,
            state=_state(agent, silent=agent.is_silent(now, SLIPWAY.heartbeat_seconds)),
            hostname=agent.hostname,
            software=agent.software,
            seen=ago(agent.last_seen_at, now),
            connected=ago(agent.connected_at, now),
            targets=agent.target_count,
        )

    context = {
        "agents": [row(agent) for agent in found.items],
        "more": found.next_before and link(request, after=found.next_before),
    }
    return render(request, "ui/agents.html", context)


def _state(agent: Agent, *, silent: bool) -> str:
    if agent.revoked_at:
        return "revoked"
    return "silent" if silent else "connected"
