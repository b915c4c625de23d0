"""One compact tile a target: flat, ready-formatted values, because a page may hold hundreds of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from django.utils.safestring import SafeString

from deployments.models import Rollout, RolloutTarget, Target
from portal.ui.format import ago, words


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A target within a rollout. The style sheet shows `old`, `new` or both, by the state."""

    id: UUID
    target_id: UUID
    name: str
    region: str
    state: str
    label: str
    old: str
    new: str
    is_touched: bool
    """Whether the new release was sent here; one that is skipped afterwards keeps it."""
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class TargetTile:
    """A target as it stands."""

    id: UUID
    name: str
    state: str
    version: str
    since: SafeString | str
    agent: str


def tiles(rollout: Rollout, rows: Iterable[RolloutTarget], errors: Mapping[UUID, str]) -> list[Tile]:
    """`errors`: why targets failed, which those that were put back no longer say themselves."""
    return [
        Tile(
            id=row.id,
            target_id=row.target_id,
            name=row.target.name,
            region=row.target.region.name,
            state=row.state,
            label=words(row.state),
            old=row.previous_release.version if row.previous_release else "empty",
            new=rollout.release.version,
            is_touched=row.touched,
            error=row.error or errors.get(row.id, ""),
        )
        for row in rows
    ]


def target_tiles(targets: Iterable[Target], now: datetime) -> list[TargetTile]:
    return [
        TargetTile(
            id=target.id,
            name=target.name,
            state=target.health if target.release else "empty",
            version=target.release.version if target.release else "empty",
            since=ago(target.release_since, now) if target.release_since else "",
            agent=target.agent.name if target.agent else "",
        )
        for target in targets
    ]
