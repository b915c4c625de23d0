"""Time's wake-ups: due timers and what was lost. Any number may run; one works, by advisory lock."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from django.db import OperationalError, close_old_connections, connection
from django.db.models.functions import Now
from django_q.models import Task as JobResult

from deployments import queueing
from deployments.agents import liveness
from deployments.domain.actor import Actor
from deployments.engine import sweep
from deployments.models import IdempotencyKey
from deployments.services.repairs import repair_drift

log = structlog.get_logger(__name__)

LEADER_LOCK = 0x51197A7
INTERVAL_SECONDS = 0.2
SILENCE_EVERY_SECONDS = 1.0
SWEEP_EVERY_SECONDS = 2.0
REPAIR_EVERY_SECONDS = 3.0
TIDY_EVERY_SECONDS = 3600.0
FAILED_JOBS_KEPT = timedelta(days=30)


class Work:
    """Something that is due every so many seconds; the first time at once."""

    def __init__(self, do: Callable[[], object], every_seconds: float) -> None:
        self._do = do
        self._every_seconds = every_seconds
        self._due_at = 0.0

    def do_when_due(self) -> None:
        """One kind of work that fails does not keep the others from being done; raises OperationalError."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + self._every_seconds
        try:
            self._do()
        except OperationalError:
            raise
        except Exception:
            log.exception("work of the clock failed", work=self._do.__name__)


def run(stop: threading.Event) -> None:
    """Work until `stop` is set; survives a database that goes away."""
    works = [
        Work(_wake_due, 0.0),
        Work(_wake_lost, SWEEP_EVERY_SECONDS),
        Work(liveness.note_silence, SILENCE_EVERY_SECONDS),
        Work(_repair, REPAIR_EVERY_SECONDS),
        Work(_forget, TIDY_EVERY_SECONDS),
    ]
    while not stop.wait(INTERVAL_SECONDS):
        try:
            if not _leads():
                continue
            for work in works:
                work.do_when_due()
        except OperationalError as error:
            log.warning("the database is away", error=str(error).splitlines()[0])
            close_old_connections()
            connection.close()


def _wake_due() -> None:
    for rollout_id in sweep.due():
        queueing.tick(rollout_id)


def _wake_lost() -> None:
    for rollout_id in sweep.lost():
        queueing.tick(rollout_id)


def _repair() -> None:
    repair_drift(actor=Actor.system("clock"))


def _forget() -> None:
    """Remove what nobody asks for any more: answers to old requests, traces of old failed jobs."""
    IdempotencyKey.objects.outdated().delete()
    JobResult.objects.filter(stopped__lt=Now() - FAILED_JOBS_KEPT).delete()


def _leads() -> bool:
    """Take the leader's lock on this connection, or see that it is held; it goes with the connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 "
            "AND objid = %s AND pid = pg_backend_pid()) OR pg_try_advisory_lock(%s)",
            [LEADER_LOCK, LEADER_LOCK],
        )
        row = cursor.fetchone()
    return bool(row and row[0])
