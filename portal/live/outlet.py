"""One socket's way out: writing never waits, and a reader that is too slow is let go.

The fan-out writes to hundreds of sockets in a row. As long as a socket's buffer has room, an ASGI
`send` finishes without suspending, so it is run to its end on the spot: no task and no trip through
the event loop for each socket and message. Where it does suspend, a task finishes it and what queues
up behind it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import structlog

logger = structlog.get_logger(__name__)

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

NORMAL = 1000
MALFORMED = 4400
NOT_SIGNED_IN = 4401
NOT_ALLOWED = 4403
NOT_FOUND = 4404
TOO_SLOW = 4408
REPLACED = 4409
FLOODING = 4429

MAX_QUEUED = 1024 * 1024
"""Characters that may wait for one socket, beside what the operating system buffers."""
CLOSE_SECONDS = 10


class Outlet:
    """Writes to one accepted websocket; made in the task that serves it."""

    __slots__ = ("_loop", "_queue", "_queued", "_send", "_task", "_writer", "close_code")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._queue: deque[Message] | None = None
        self._queued = 0
        self._writer: asyncio.Task[None] | None = None
        self.close_code = 0
        """Why this side closes it; 0 while it does not."""

    def write(self, text: str) -> None:
        """Send `text`, or queue it; beyond MAX_QUEUED the socket is closed as too slow."""
        if self.close_code:
            return
        if self._writer is not None:
            self._queued += len(text)
            if self._queued > MAX_QUEUED:
                logger.info("live.too_slow")
                self.close(TOO_SLOW)
                return
        self._put({"type": "websocket.send", "text": text})

    def close(self, code: int) -> None:
        """Close with `code`, dropping what is queued; where the peer does not read, cancel its task."""
        if self.close_code:
            return
        self.close_code = code
        if self._queue:
            self._queue.clear()
        self._put({"type": "websocket.close", "code": code})
        if self._writer is not None and self._task is not None:
            self._loop.call_later(CLOSE_SECONDS, self._task.cancel)

    def abandon(self) -> None:
        """The socket is gone: stop writing."""
        self.close_code = self.close_code or NORMAL
        if self._writer is not None:
            self._writer.cancel()
        self._task = None

    def _put(self, message: Message) -> None:
        if self._writer is not None:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(message)
            return
        step = self._send(message)
        assert isinstance(step, Coroutine)
        try:
            waits_for = step.send(None)
        except StopIteration:
            return
        except OSError:
            self.close_code = self.close_code or NORMAL
            return
        self._writer = self._loop.create_task(self._drain(_Rest(step, waits_for)))

    async def _drain(self, first: "_Rest") -> None:
        try:
            await first
            while self._queue:
                message = self._queue.popleft()
                self._queued -= len(message.get("text", ""))
                await self._send(message)
        except OSError:
            self.close_code = self.close_code or NORMAL
        finally:
            self._queue, self._queued, self._writer = None, 0, None


class _Rest:
    """What is left of a coroutine that was begun outside a task, and the future that it waits for."""

    __slots__ = ("_step", "_waits_for")

    def __init__(self, step: Coroutine[Any, None, None], waits_for: Any) -> None:
        self._step = step
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield self._waits_for
            yield from self._step.__await__()
        finally:
            self._step.close()
