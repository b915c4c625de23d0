"""Database notifications -> this process. A notification says only that there is more to read.

One connection listens. When it is lost, notifications are lost with it, so after every (re)connect the
listener is told to look at everything.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
import structlog
from django.db import connection
from psycopg import sql

logger = structlog.get_logger(__name__)

FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 5.0
PROBE_SECONDS = 5.0
"""A connection that said nothing for so long is asked whether it still lives."""
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


class Listener(Protocol):
    def notified(self, channel: str, payload: str) -> None:
        """Something happened on `channel`."""

    def look_at_everything(self) -> None:
        """Notifications may have been missed."""


class Relay:
    def __init__(self, channels: Sequence[str], listener: Listener) -> None:
        self._channels = channels
        self._listener = listener
        self.connects = 0

    async def run(self) -> None:
        """Listen until cancelled."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            before = self.connects
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                logger.warning("live.relay_lost", error=str(error).strip())
            if self.connects > before:
                backoff = FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(**_parameters(), autocommit=True) as listening:
            for channel in self._channels:
                await listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self.connects += 1
            self._listener.look_at_everything()
            while True:
                async for notification in listening.notifies(timeout=PROBE_SECONDS):
                    self._listener.notified(notification.channel, notification.payload)
                await listening.execute("SELECT 1")


def _parameters() -> dict[str, Any]:
    """Django's own connection parameters, without what belongs to its cursors and its pool."""
    parameters: dict[str, Any] = connection.get_connection_params()
    for name in ("cursor_factory", "context", "pool", "prepare_threshold"):
        parameters.pop(name, None)
    return KEEPALIVES | parameters
