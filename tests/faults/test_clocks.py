"""Of two clocks one leads; when it is stopped without a word, the other takes over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from deployments.clock import LEADER_LOCK
from tests.live.web import database_url

pytestmark = pytest.mark.django_db(transaction=True)

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def _start() -> subprocess.Popen[bytes]:
        environment = os.environ | {"DATABASE_URL": database_url(), "SLIPWAY_PROCESS": "clock"}
        process = subprocess.Popen([sys.executable, "manage.py", "clock"], env=environment)
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.wait()


def leader() -> int | None:
    """The database's process that holds the leader's lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [LEADER_LOCK],
        )
        row = cursor.fetchone()
    return row[0] if row else None


def until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 40
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_leader_that_is_frozen_gives_way_and_joins_again(start: Start) -> None:
    first = start()
    until(lambda: leader() is not None, "the first one leads")
    before = leader()
    second = start()
    first.send_signal(signal.SIGSTOP)
    until(lambda: leader() not in (None, before), "the other one takes over")
    first.send_signal(signal.SIGCONT)
    now = leader()
    time.sleep(1)
    assert leader() == now, "who comes back finds that another leads"
    assert first.poll() is None
    assert second.poll() is None
    second.kill()
    second.wait()
    until(lambda: leader() not in (None, now), "and takes over again when it is needed")
