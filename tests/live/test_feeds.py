"""The parts of the fan-out that real sockets hit only by chance: joins that race, writers that block."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import DataError, OperationalError

from portal.live import outlet as outlets
from portal.live.feeds import Feeds, Numbered
from portal.live.gatherer import Gatherer
from portal.live.outlet import Outlet

KEY = UUID(int=1)


class Wire:
    """An ASGI `send` that can be blocked, as a full socket buffer blocks it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.room = asyncio.Event()
        self.room.set()
        self.lost = False

    async def send(self, message: dict[str, Any]) -> None:
        await self.room.wait()
        if self.lost:
            raise OSError
        self.sent.append(message)

    async def send_text(self, text: str) -> None:
        await self.send({"type": "websocket.send", "text": text})

    def numbers(self) -> list[int]:
        texts = [json.loads(message["text"]) for message in self.sent if "text" in message]
        return [event["n"] for text in texts for event in text["events"]]

    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if "text" in message]

    def codes(self) -> list[int]:
        return [message["code"] for message in self.sent if "code" in message]


class Rows:
    """What a feed reads; `after_read` happens between a read and what the reader does with it."""

    def __init__(self) -> None:
        self.last = 0
        self.after_read: Callable[[], None] = lambda: None

    async def read(self, lasts: Mapping[UUID, int]) -> dict[UUID, Sequence[Numbered]]:
        found = [(n, f'{{"n":{n}}}') for n in range(lasts[KEY] + 1, self.last + 1)][:500]
        self.after_read()
        await asyncio.sleep(0)
        return {KEY: found} if found else {}

    async def newest(self, _key: UUID) -> int:
        return self.last

    def commit(self, count: int = 1) -> None:
        self.last += count


@contextmanager
def running(work: Awaitable[None]) -> Iterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()


async def soon() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_what_is_committed_while_the_first_watcher_joins_is_not_missed() -> None:
    rows, wire = Rows(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    rows.commit(3)

    def commit_once() -> None:
        rows.after_read = lambda: None
        rows.commit()
        feeds.changed(KEY)  # the notification comes, but nobody watches yet

    rows.after_read = commit_once
    with running(feeds.run()):
        await feeds.join(KEY, Outlet(wire.send), 0, wire.send_text)
        await soon()
    assert wire.numbers() == [1, 2, 3, 4]


async def test_what_the_feed_reads_while_another_joins_reaches_both_once() -> None:
    rows, first, second = Rows(), Wire(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    with running(feeds.run()):
        await feeds.join(KEY, Outlet(first.send), 0, first.send_text)
        rows.commit(2)

        def commit_once() -> None:
            rows.after_read = lambda: None
            rows.commit(2)
            feeds.changed(KEY)

        rows.after_read = commit_once
        await feeds.join(KEY, Outlet(second.send), 0, second.send_text)
        await soon()
        rows.commit()
        feeds.changed(KEY)
        await soon()
    assert first.numbers() == second.numbers() == [1, 2, 3, 4, 5]


async def test_a_watcher_that_is_ahead_of_the_feed_gets_only_what_it_lacks() -> None:
    rows, behind, ahead = Rows(), Wire(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    await feeds.join(KEY, Outlet(behind.send), 0, behind.send_text)
    rows.commit(2)
    await feeds.join(KEY, Outlet(ahead.send), 0, ahead.send_text)
    rows.commit()
    with running(feeds.run()):
        feeds.changed(KEY)
        await soon()
    assert behind.numbers() == ahead.numbers() == [1, 2, 3]
    assert behind.texts() == ['{"events":[{"n":1},{"n":2},{"n":3}]}']


async def test_a_number_from_the_future_holds_nobody_up() -> None:
    rows, liar, honest = Rows(), Wire(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    rows.commit(2)
    async with asyncio.timeout(5):
        await feeds.join(KEY, Outlet(liar.send), 2**62, liar.send_text)
        await feeds.join(KEY, Outlet(honest.send), 0, honest.send_text)
    rows.commit()
    with running(feeds.run()):
        feeds.changed(KEY)
        await soon()
    assert liar.numbers() == [3]
    assert honest.numbers() == [1, 2, 3]


async def test_a_stream_that_lost_its_end_can_still_be_joined() -> None:
    rows, early, late = Rows(), Wire(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    rows.commit(3)
    await feeds.join(KEY, Outlet(early.send), 0, early.send_text)
    rows.last = 1  # as after a restored database
    async with asyncio.timeout(5):
        await feeds.join(KEY, Outlet(late.send), 0, late.send_text)
    assert late.numbers() == [1]


async def test_more_than_a_page_is_delivered_without_another_wake_up() -> None:
    rows, wire = Rows(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    await feeds.join(KEY, Outlet(wire.send), 0, wire.send_text)
    rows.commit(1300)
    with running(feeds.run()):
        feeds.changed(KEY)
        await soon()
    assert wire.numbers() == list(range(1, 1301))


async def test_a_failed_read_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("portal.live.feeds.RETRY_SECONDS", 0)
    rows, wire = Rows(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    await feeds.join(KEY, Outlet(wire.send), 0, wire.send_text)
    rows.commit()

    def fail_once() -> None:
        rows.after_read = lambda: None
        raise OperationalError

    rows.after_read = fail_once
    with running(feeds.run()):
        feeds.changed(KEY)
        await soon()
    assert wire.numbers() == [1]


async def test_nothing_is_kept_of_a_stream_that_nobody_watches() -> None:
    rows, wire = Rows(), Wire()
    feeds = Feeds(rows.read, rows.newest)
    watcher = await feeds.join(KEY, Outlet(wire.send), 0, wire.send_text)
    assert feeds.is_watched(KEY)
    feeds.leave(KEY, watcher)
    assert not feeds.is_watched(KEY)


async def test_writing_to_a_blocked_socket_returns_at_once_and_keeps_the_order() -> None:
    wire = Wire()
    outlet = Outlet(wire.send)
    outlet.write("a")
    wire.room.clear()
    for text in "bcd":
        outlet.write(text)
    assert wire.texts() == ["a"]
    wire.room.set()
    await soon()
    outlet.write("e")
    assert wire.texts() == list("abcde")


async def test_a_blocked_socket_is_closed_when_too_much_waits_for_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(outlets, "MAX_QUEUED", 10)
    wire = Wire()
    outlet = Outlet(wire.send)
    wire.room.clear()
    for text in ("first", "12345", "67890", "x", "y"):
        outlet.write(text)
    assert outlet.close_code == outlets.TOO_SLOW
    wire.room.set()
    await soon()
    assert wire.texts() == ["first"]
    assert wire.codes() == [4408]
    outlet.abandon()


async def test_a_peer_that_never_reads_again_does_not_hold_its_task(monkeypatch: Any) -> None:
    monkeypatch.setattr(outlets, "CLOSE_SECONDS", 0.01)
    wire = Wire()
    wire.room.clear()
    began = asyncio.Event()

    async def serve() -> None:
        outlet = Outlet(wire.send)
        outlet.write("a")
        outlet.close(outlets.NOT_ALLOWED)
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            outlet.abandon()

    task = asyncio.create_task(serve())
    await began.wait()
    await asyncio.wait_for(task, 5)
    assert wire.sent == []


async def test_a_lost_socket_is_no_error() -> None:
    wire = Wire()
    outlet = Outlet(wire.send)
    wire.lost = True
    outlet.write("a")
    assert outlet.close_code
    outlet.write("b")
    wire.lost, wire.sent = False, []
    blocked = Outlet(wire.send)
    wire.room.clear()
    blocked.write("a")
    wire.lost = True
    wire.room.set()
    await soon()
    assert blocked.close_code
    assert wire.sent == []


async def test_what_comes_while_a_lot_is_written_makes_the_next_lot() -> None:
    lots: list[list[int]] = []
    gate = asyncio.Event()

    async def write(lot: Sequence[int]) -> None:
        lots.append(list(lot))
        await gate.wait()

    gatherer = Gatherer[int]("numbers", write)
    with running(gatherer.run()):
        gatherer.add(1)
        await soon()
        for number in (2, 3, 4):
            gatherer.add(number)
        gate.set()
        await gatherer.drained()
    assert lots == [[1], [2, 3, 4]]


async def test_a_lot_waits_while_the_database_is_away_and_one_bad_item_costs_only_itself(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr("portal.live.gatherer.RETRY_SECONDS", 0)
    written: list[int] = []
    away = 2

    async def write(lot: Sequence[int]) -> None:
        nonlocal away
        if away:
            away -= 1
            raise OperationalError
        if 2 in lot:
            raise DataError
        written.extend(lot)

    gatherer = Gatherer[int]("numbers", write)
    for number in (1, 2, 3):
        gatherer.add(number)
    with running(gatherer.run()):
        await gatherer.drained()
    assert written == [1, 3]
    assert gatherer.dropped == 1
