"""Rows of the lists that several pages show."""

import dataclasses
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest
from django.utils.safestring import SafeString

from deployments.models import Release, Rollout
from deployments.reads import holds, rollouts
from portal.ui.format import ago, duration, short, words


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutRow:
    id: UUID
    service: str
    version: str
    environment: str
    kind: str
    state: str
    label: str
    by: str
    when: SafeString | str
    took: str
    said: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseRow:
    id: UUID
    version: str
    is_held: bool
    commit: str
    message: str
    author: str
    when: SafeString | str


def rollout_rows(rows: Iterable[Rollout], now: datetime) -> list[RolloutRow]:
    return [
        RolloutRow(
            id=rollout.id,
            service=rollout.service.name,
            version=rollout.release.version,
            environment=rollout.environment.name,
            kind="" if rollout.kind == Rollout.Kind.DEPLOY else rollout.kind,
            state=rollout.state,
            label=words(rollout.state),
            by=rollout.requested_by,
            when=ago(rollout.created_at, now),
            took=duration((rollout.finished_at or now) - rollout.started_at) if rollout.started_at else "",
            said=waits_for(rollout) or rollout.outcome or rollout.reason,
        )
        for rollout in rows
    ]


def waits_for(rollout: Rollout) -> str:
    """The sentence that says what it waits for; empty at an end."""
    waiting = rollouts.waiting_of(rollout)
    return waiting.sentence if waiting else ""


def release_rows(releases: Collection[Release], now: datetime) -> list[ReleaseRow]:
    held = holds.of([release.id for release in releases])
    return [
        ReleaseRow(
            id=release.id,
            version=release.version,
            is_held=release.id in held,
            commit=short(release.commit_sha),
            message=release.commit_message.partition("\n")[0],
            author=release.author,
            when=ago(release.created_at, now),
        )
        for release in releases
    ]


def asked(request: HttpRequest, *names: str) -> dict[str, str]:
    """Values of the query, as the database can take them: short, and without NUL."""
    return {name: request.GET.get(name, "").replace("\0", "").strip()[:100] for name in names}


def link(request: HttpRequest, **changed: Any) -> str:
    """The query of this page with some of it changed; empty values are left out."""
    query = {key: value for key, value in request.GET.items() if value} | changed
    return "?" + urlencode({key: value for key, value in query.items() if value})
