"""An event as one line: what a person reads in the stream of a rollout."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from django.utils.safestring import SafeString

from deployments.models import Event
from portal.ui.format import clock, words


@dataclasses.dataclass(frozen=True, slots=True)
class EventLine:
    number: int
    when: SafeString
    state: str
    """What the line is marked with: a state, or a kind of its own."""
    text: str
    detail: str = ""


WAITS = {
    "engine": ("the engine", "pending"),
    "queue": ("its turn", "queued"),
    "tasks": ("targets", "running"),
    "bake": ("bake time", "baking"),
    "retry": ("the next try", "pending"),
    "capacity": ("targets to be healthy", "paused"),
    "person": ("a person", "paused"),
    "agent": ("an agent", "silent"),
    "fault": ("a fault to be mended", "failed"),
}
"""Kind of a wait -> what it is for, and the state whose colour and icon it has."""


def lines(events: Iterable[Event]) -> list[EventLine]:
    return [line(event) for event in events]


def line(event: Event) -> EventLine:
    data: dict[str, Any] = event.data
    state = str((data.get("after") or {}).get("state", ""))
    text, detail = _say(event.kind, data, state)
    return EventLine(event.number, clock(event.at), state or event.kind.replace(".", "-"), text, detail)


def _say(kind: str, data: dict[str, Any], state: str) -> tuple[str, str]:
    name, reason = str(data.get("name", "")), str(data.get("reason", ""))
    match kind:
        case "rollout.created":
            return "Rollout created", reason
        case "rollout.state":
            return f"Rollout {words(state)}", reason
        case "rollout.waiting":
            waiting = data.get("waiting_on") or {}
            return str(waiting.get("sentence", "Waiting")), ""
        case "target.health":
            health = str((data.get("after") or {}).get("health", "unknown"))
            return f"{name} is {health}" if health != "unknown" else f"{name} has not reported yet", ""
        case "release.hold":
            return f"{name} is on hold", reason
        case "target.drift":
            return (
                f"{name} has drifted" if (data.get("after") or {}).get("drift") else f"{name} is right again"
            ), reason
        case "rollout.note":
            return reason or name, ""
        case "batch.state" | "target.state":
            return f"{name[:1].upper()}{name[1:]} {words(state)}" if kind[0] == "b" else (
                f"{name} {words(state)}"
            ), reason
    subject = kind.replace(".", " ").capitalize()
    return " ".join(part for part in (subject, name, words(state)) if part), reason
