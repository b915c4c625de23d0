"""Everything that browsers of this web process watch, fed by database notifications."""

import asyncio
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError

from portal.live import history
from portal.live.database import Database
from portal.live.feeds import Feeds
from portal.live.overview import Overview

logger = structlog.get_logger(__name__)


class Hub:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.rollouts = Feeds(
            lambda lasts: database.run(history.events_after, lasts),
            lambda rollout_id: database.run(history.newest_event, rollout_id),
        )
        self.targets = Feeds(
            lambda lasts: database.run(history.logs_after, lasts),
            lambda target_id: database.run(history.newest_log, target_id),
        )
        self.overview = Overview(lambda rollouts, targets: database.run(history.changes, rollouts, targets))
        self._changed_targets: set[UUID] = set()
        self._target_changed = asyncio.Event()

    def rollout_has_events(self, rollout_id: UUID) -> None:
        self.rollouts.changed(rollout_id)
        self.overview.rollout_changed(rollout_id)

    def target_has_logs(self, target_id: UUID) -> None:
        self.targets.changed(target_id)

    def target_changed(self, target_id: UUID) -> None:
        self.overview.target_changed(target_id)
        if self.targets.is_watched(target_id):
            self._changed_targets.add(target_id)
            self._target_changed.set()

    def look_at_everything(self) -> None:
        self.rollouts.all_changed()
        self.targets.all_changed()
        self.overview.all_changed()

    async def run(self) -> None:
        """Serve what is watched until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rollouts.run())
            group.create_task(self.targets.run())
            group.create_task(self.overview.run())
            group.create_task(self._tell_targets())

    async def _tell_targets(self) -> None:
        while True:
            await self._target_changed.wait()
            self._target_changed.clear()
            ids, self._changed_targets = self._changed_targets, set()
            try:
                for target_id, event in await self._database.run(history.targets, list(ids)):
                    self.targets.tell(target_id, event)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("live.read_failed", error=str(error))
