"""What one web process does for its sockets, and its beginning and end."""

import asyncio
import os
import secrets
import socket
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from deployments import events
from deployments.agents import connections, logs, observations, outbox
from portal.live.database import Database
from portal.live.dispatcher import Dispatcher
from portal.live.hub import Hub
from portal.live.relay import Relay
from portal.live.viewers import Guard

logger = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0
LAST_WRITES_SECONDS = 1.0
"""How long a stopping process waits for what is still to be written."""


class WebProcess:
    """Belongs to one event loop. Started by the first use, or by ASGI's lifespan."""

    def __init__(self) -> None:
        host = socket.gethostname()[:32]
        self.name = f"{host}:{os.getpid()}:{secrets.token_hex(3)}"
        self.counts: Counter[str] = Counter()
        self.database = Database()
        self.hub = Hub(self.database)
        self.guard = Guard(self.database)
        self.dispatcher = Dispatcher(self.database, self.counts, self.name)
        self._wakes: dict[str, Callable[[UUID], None]] = {
            events.CHANNEL: self.hub.rollout_has_events,
            logs.CHANNEL: self.hub.target_has_logs,
            observations.CHANNEL: self.hub.target_changed,
            connections.CHANNEL: self.dispatcher.connected_somewhere,
        }
        self.relay = Relay([outbox.CHANNEL, *self._wakes], self)
        self._tasks: list[asyncio.Task[None]] = []
        self._connections = 0

    def place(self) -> str:
        """A name for a new connection of an agent: this process and a number."""
        self._connections += 1
        return f"{self.name}/{self._connections}"

    def notified(self, channel: str, payload: str) -> None:
        if channel == outbox.CHANNEL:
            self.dispatcher.tasks_wait()
            return
        try:
            subject_id = UUID(payload)
        except ValueError:
            logger.warning("live.strange_notification", channel=channel)
            return
        self._wakes[channel](subject_id)

    def look_at_everything(self) -> None:
        self.hub.look_at_everything()
        self.dispatcher.look_at_everything()

    def start(self) -> None:
        dispatcher, hub = self.dispatcher, self.hub
        for run in (
            self.relay.run,
            hub.run,
            self.guard.run,
            dispatcher.send_tasks,
            dispatcher.drop_lost,
            dispatcher.reports.run,
            dispatcher.beats.run,
            dispatcher.logs.run,
            dispatcher.departures.run,
        ):
            self._tasks.append(asyncio.create_task(_for_ever(run)))

    async def stop(self) -> None:
        """Write what is still to be written, within LAST_WRITES_SECONDS, and stop."""
        dispatcher = self.dispatcher
        try:
            async with asyncio.timeout(LAST_WRITES_SECONDS):
                await dispatcher.reports.drained()
                await dispatcher.departures.drained()
        except TimeoutError:
            logger.warning("live.stopped_early")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.database.close)


async def _for_ever(run: Callable[[], Awaitable[None]]) -> None:
    """An error that nobody foresaw is logged, and costs a second and not the process."""
    while True:
        try:
            await run()
        except Exception:
            logger.exception("live.task_failed", task=getattr(run, "__qualname__", ""))
        await asyncio.sleep(RESTART_SECONDS)


_processes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, WebProcess] = weakref.WeakKeyDictionary()


def current() -> WebProcess:
    """The web process of the running event loop, started if it was not."""
    loop = asyncio.get_running_loop()
    process = _processes.get(loop)
    if process is None:
        process = _processes[loop] = WebProcess()
        process.start()
    return process


async def stop() -> None:
    """Stop the web process of the running event loop, if it was started."""
    if process := _processes.pop(asyncio.get_running_loop(), None):
        await process.stop()
