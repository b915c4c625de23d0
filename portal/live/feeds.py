"""One numbered stream, many sockets: rows are read once, encoded once and written to each socket.

Nothing is missed and nothing comes twice: a socket joins a feed only when it has everything that the
feed has read, and a feed sends to each socket only what is newer than the socket's own number.

What goes to a browser is `{"events": [...]}`, one or more events in the order of their numbers; how
many share a message depends only on how fast they come.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError

from portal.live.outlet import Outlet

logger = structlog.get_logger(__name__)

Numbered = tuple[int, str]
"""An event's number and its JSON."""
Read = Callable[[Mapping[UUID, int]], Awaitable[Mapping[UUID, Sequence[Numbered]]]]
"""Key -> last number that is known, to key -> what is newer, in order; at most PAGE of each."""
Newest = Callable[[UUID], Awaitable[int]]
"""Key -> the highest number that was given so far; 0 when none was."""

PAGE = 500
RETRY_SECONDS = 0.5


def message(events: Sequence[str]) -> str:
    """The text of one websocket message."""
    return f'{{"events":[{",".join(events)}]}}'


class Watcher:
    """One socket on one feed."""

    __slots__ = ("outlet", "position")

    def __init__(self, outlet: Outlet, position: int) -> None:
        self.outlet = outlet
        self.position = position
        """Number of the last event written to it."""


class Feed:
    __slots__ = ("last", "watchers")

    def __init__(self, last: int) -> None:
        self.last = last
        self.watchers: set[Watcher] = set()

    def deliver(self, events: Sequence[Numbered]) -> None:
        first, last = events[0][0], events[-1][0]
        shared = message([text for _, text in events])
        for watcher in self.watchers:
            if watcher.position < first:
                watcher.outlet.write(shared)
            elif watcher.position < last:
                watcher.outlet.write(message([text for number, text in events if number > watcher.position]))
            watcher.position = max(watcher.position, last)
        self.last = last


class Feeds:
    """All streams of one kind."""

    def __init__(self, read: Read, newest: Newest) -> None:
        self._read = read
        self._newest = newest
        self._feeds: dict[UUID, Feed] = {}
        self._dirty: set[UUID] = set()
        self._wake = asyncio.Event()

    def changed(self, key: UUID) -> None:
        """There may be more to read; costs nothing where nobody watches."""
        if key in self._feeds:
            self._dirty.add(key)
            self._wake.set()

    def all_changed(self) -> None:
        self._dirty.update(self._feeds)
        self._wake.set()

    def is_watched(self, key: UUID) -> bool:
        return key in self._feeds

    def tell(self, key: UUID, event: str) -> None:
        """Send an event that has no number and is not kept."""
        if feed := self._feeds.get(key):
            text = message([event])
            for watcher in feed.watchers:
                watcher.outlet.write(text)

    async def join(
        self, key: UUID, outlet: Outlet, after: int, send_text: Callable[[str], Awaitable[None]]
    ) -> Watcher:
        """Send what is newer than `after`, at the pace of the reader, then let the socket join the feed."""
        # `after` is what a browser says: beyond the newest number it would put the feed, and with it
        # everybody else who watches, ahead of all events to come.
        watcher = Watcher(outlet, min(after, await self._newest(key)) if after else 0)
        while True:
            known = self._feeds[key].last if key in self._feeds else 0
            page = (await self._read({key: watcher.position})).get(key, ())
            if page:
                await send_text(message([text for _, text in page]))
                watcher.position = page[-1][0]
            feed = self._feeds.get(key)
            # What the feed had before this read, the read had too: only what it got since is lacking.
            if len(page) == PAGE or (feed is not None and watcher.position < feed.last != known):
                continue
            if feed is None:
                feed = self._feeds[key] = Feed(watcher.position)
                # What was committed since the read was announced when nobody watched: look again.
                self.changed(key)
            feed.watchers.add(watcher)
            return watcher

    def leave(self, key: UUID, watcher: Watcher) -> None:
        feed = self._feeds.get(key)
        if feed is None:
            return
        feed.watchers.discard(watcher)
        if not feed.watchers:
            del self._feeds[key]

    async def run(self) -> None:
        """Read and deliver until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            keys, self._dirty = self._dirty, set()
            lasts = {key: self._feeds[key].last for key in keys if key in self._feeds}
            if not lasts:
                continue
            try:
                found = await self._read(lasts)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("live.read_failed", error=str(error))
                self._dirty |= keys
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for key, events in found.items():
                self._deliver(key, [event for event in events if event[0] > lasts[key]])

    def _deliver(self, key: UUID, events: Sequence[Numbered]) -> None:
        feed = self._feeds.get(key)
        if feed is None or not events or events[-1][0] <= feed.last:
            return
        feed.deliver([event for event in events if event[0] > feed.last])
        if len(events) >= PAGE:
            self.changed(key)
