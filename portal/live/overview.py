"""What an overview page hears: which service in which environment to look at again.

Changes are gathered for a moment, so that a rollout of a thousand targets costs an open overview a few
messages a second and not a thousand.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec
import structlog
from django.db import DatabaseError, InterfaceError

from portal.live.feeds import message
from portal.live.history import Change
from portal.live.outlet import Outlet

logger = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.3
ReadChanges = Callable[[list[UUID], list[UUID]], Awaitable[list[Change]]]


class Onlooker:
    """One overview socket; `teams` is None for who sees everything."""

    __slots__ = ("outlet", "teams")

    def __init__(self, outlet: Outlet, teams: frozenset[UUID] | None) -> None:
        self.outlet = outlet
        self.teams = teams


class Overview:
    def __init__(self, read: ReadChanges) -> None:
        self._read = read
        self.onlookers: set[Onlooker] = set()
        self._rollouts: set[UUID] = set()
        self._targets: set[UUID] = set()
        self._wake = asyncio.Event()

    def rollout_changed(self, rollout_id: UUID) -> None:
        if self.onlookers:
            self._rollouts.add(rollout_id)
            self._wake.set()

    def target_changed(self, target_id: UUID) -> None:
        if self.onlookers:
            self._targets.add(target_id)
            self._wake.set()

    def all_changed(self) -> None:
        """Notifications may have been missed: nobody knows what to look at, so look at all."""
        text = message(['{"kind":"resync"}'])
        for onlooker in self.onlookers:
            onlooker.outlet.write(text)

    async def run(self) -> None:
        """Tell the open overviews until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            rollouts, self._rollouts = self._rollouts, set()
            targets, self._targets = self._targets, set()
            try:
                self._tell(await self._read(list(rollouts), list(targets)))
            except (DatabaseError, InterfaceError) as error:
                logger.warning("live.read_failed", error=str(error))
                self.all_changed()
            await asyncio.sleep(PAUSE_SECONDS)

    def _tell(self, changes: Sequence[Change]) -> None:
        encoded = [(change.team, _encode(change)) for change in changes]
        for onlooker in self.onlookers:
            teams = onlooker.teams
            mine = [text for team, text in encoded if teams is None or team in teams]
            if mine:
                onlooker.outlet.write(message(mine))


def _encode(change: Change) -> str:
    return msgspec.json.encode(
        {
            "kind": "changed",
            "rollout": change.rollout,
            "service": change.service,
            "environment": change.environment,
        }
    ).decode()
