"""Many small messages, few statements: what comes in while one lot is written makes the next lot."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError

T = TypeVar("T")

logger = structlog.get_logger(__name__)

RETRY_SECONDS = 0.5
MAX_WAITING = 20_000
"""Items kept while the database does not answer; older ones make room."""
MAX_LOT = 2_000


class Gatherer(Generic[T]):
    """Hands what was added to `write` in lots, one at a time, in order.

    Without `every_seconds` a lot is written as soon as the one before is done: nothing waits for a timer.
    """

    def __init__(
        self, name: str, write: Callable[[Sequence[T]], Awaitable[None]], *, every_seconds: float = 0.0
    ) -> None:
        self._name = name
        self._write = write
        self._every_seconds = every_seconds
        self._waiting: list[T] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def add(self, item: T) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += MAX_WAITING // 10
            del self._waiting[: MAX_WAITING // 10]
        self._waiting.append(item)
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Wait until everything that was added has been handed over."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write lots until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                lot, self._waiting = self._waiting[:MAX_LOT], self._waiting[MAX_LOT:]
                await self._hand_over(lot)
            self._idle.set()
            if self._every_seconds:
                await asyncio.sleep(self._every_seconds)

    async def _hand_over(self, lot: list[T]) -> None:
        try:
            await self._write(lot)
        except (OperationalError, InterfaceError) as error:
            # The database does not answer, or was in the way of itself: later it will do.
            logger.warning("live.write_failed", what=self._name, items=len(lot), error=str(error))
            self._waiting[:0] = lot
            await asyncio.sleep(RETRY_SECONDS)
        except (DatabaseError, ValueError) as error:
            if len(lot) == 1:
                self.dropped += 1
                logger.error("live.item_dropped", what=self._name, error=str(error))
                return
            # One of them is not acceptable: the others shall not suffer for it.
            for item in lot:
                await self._hand_over([item])
