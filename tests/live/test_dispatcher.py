"""What agents say, between socket and row: kept over, written late, and yet the newest word stays."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from deployments import protocol
from deployments.models import Service, Target
from portal.live.database import Database
from portal.live.dispatcher import Beat, Dispatcher, Said

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    monkeypatch.setattr("portal.live.database.THREADS", 1)  # whose connection is surely closed at the end
    database = Database()
    yield Dispatcher(database, Counter(), "web")
    database.close()


@pytest.fixture
def target(orders: Service) -> Target:
    return orders.targets.earliest("name")


def report(target: Target, health: Any) -> protocol.TargetReport:
    return protocol.TargetReport(target_id=str(target.id), status="running", health=health)


def beat(target: Target, health: Any, *, heard_at: float) -> Beat:
    assert target.agent_id is not None
    return Beat(target.agent_id, (report(target, health),), heard_at)


def write_beats(dispatcher: Dispatcher) -> None:
    async def until_drained() -> None:
        writing = asyncio.create_task(dispatcher.beats.run())
        await dispatcher.beats.drained()
        writing.cancel()

    asyncio.run(until_drained())


def test_a_heartbeat_that_was_kept_over_does_not_replace_a_newer_one(
    dispatcher: Dispatcher, target: Target
) -> None:
    now = time.monotonic()
    old, new = (
        beat(target, "unhealthy", heard_at=now - 1),
        beat(target, "healthy", heard_at=now),
    )
    dispatcher.beats.add(new)  # while the old one is being written
    with transaction.atomic():
        Target.objects.select_for_update().get(pk=target.pk)
        asyncio.run(dispatcher._write_beats([old]))
    write_beats(dispatcher)
    target.refresh_from_db()
    assert target.health == "healthy"


def test_a_heartbeat_that_was_gathered_does_not_replace_what_a_later_report_said(
    dispatcher: Dispatcher, target: Target
) -> None:
    now = time.monotonic()
    dispatcher.beats.add(beat(target, "unhealthy", heard_at=now - 1))
    assert target.agent_id is not None
    said = protocol.TaskReport(
        task_id="", attempt=1, fence=1, status="succeeded", target=report(target, "healthy")
    )
    asyncio.run(dispatcher._write_reports([Said((target.agent_id, said), now)]))
    write_beats(dispatcher)
    target.refresh_from_db()
    assert target.health == "healthy"


def test_a_report_that_waited_for_the_database_does_not_replace_a_newer_heartbeat(
    dispatcher: Dispatcher, target: Target
) -> None:
    now = time.monotonic()
    assert target.agent_id is not None
    said = protocol.TaskReport(
        task_id="", attempt=1, fence=1, status="failed", target=report(target, "unhealthy")
    )
    dispatcher.beats.add(beat(target, "healthy", heard_at=now))
    write_beats(dispatcher)
    asyncio.run(dispatcher._write_reports([Said((target.agent_id, said), now - 1)]))
    target.refresh_from_db()
    assert target.health == "healthy"
