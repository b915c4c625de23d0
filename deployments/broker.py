"""The queue behind django-q2: rows in PostgreSQL, taken with SKIP LOCKED, announced by NOTIFY.

Enqueueing is a part of the caller's transaction (a transactional outbox): the job is there if and only if
the change that it is about was committed, and the notification goes out at that commit. A job carries a
wake-up and no truth, so a job that is delivered twice or late costs time and nothing else.

Coalescing. A job with a `coalesce_key` is inserted once while it waits; enqueueing it again nudges the
waiting row. Why `ON CONFLICT DO UPDATE` and not `DO NOTHING`: the update locks the waiting row until the
enqueuer's transaction ends, and `take` skips locked rows. So nobody can run the waiting job before the
enqueuer's changes are visible to it. With DO NOTHING that could happen: the job runs, reads the old state,
and is gone, and the change just committed has no wake-up. If the row was taken first, the conflict is gone
with it (the unique index covers waiting rows only) and a new row is inserted. No wake-up is lost either way.

The price: two transactions that nudge the same key wait for one another. Enqueue near the end of a
transaction, and several keys in sorted order.

Redelivery. A taken job comes back when the cluster that took it is dead, at once on the same machine, or
when it was not acknowledged in time. It may then be the job itself that kills who runs it: so it comes
back wrapped in a call of RUN_AGAIN, which counts before it runs.
"""

import copy
import logging
import os
import time
from typing import Any, Self, cast

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, models
from django.db.models.functions import Now
from django_q.brokers import Broker
from django_q.signing import BadSignature, SignedPackage

from deployments import processes
from deployments.models.jobs import QueuedJob

logger = logging.getLogger(__name__)

CHANNEL = "slipway_jobs"
# Longest wait for a notification before the table is looked at again. It is also how long a cluster that
# is told to stop may stay in `dequeue`.
POLL_SECONDS = 0.5
EXPIRY_SCAN_SECONDS = 1.0
RECONNECT_SECONDS = 1.0

RUN_AGAIN = "deployments.tasks.run_again"

_TABLE = QueuedJob._meta.db_table

_ENQUEUE = f"""
    INSERT INTO {_TABLE} (queue, coalesce_key, priority, payload, available_at)
    VALUES (%(queue)s, %(key)s, %(priority)s, %(payload)s,
            clock_timestamp() + %(delay)s * interval '1 second')
    ON CONFLICT (queue, coalesce_key) WHERE taken_until IS NULL
    DO UPDATE SET nudged = {_TABLE}.nudged + 1,
                  priority = GREATEST({_TABLE}.priority, excluded.priority),
                  available_at = LEAST({_TABLE}.available_at, excluded.available_at)
    RETURNING id
"""  # noqa: S608  the only name put in is the table's own

# A take or an acknowledgement that a power cut undoes means that the job runs once more, which is harmless:
# so neither waits for the disk. A setting that is local to the transaction, and so to this statement.
_NO_WAIT_FOR_DISK = "(SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL"

# `id = ANY(ARRAY(..))` and not `id IN (..)`: the latter may be planned as a join that runs the inner
# query again for each row, and took 200 times as long.
_TAKE = f"""
    UPDATE {_TABLE}
    SET taken_until = clock_timestamp() + %(retry)s * interval '1 second',
        taken_by = %(taken_by)s,
        attempts = attempts + 1
    WHERE id = ANY(ARRAY(
        SELECT id FROM {_TABLE}
        WHERE queue = %(queue)s AND taken_until IS NULL AND available_at <= clock_timestamp()
        ORDER BY priority DESC, available_at, id
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
      AND {_NO_WAIT_FOR_DISK}
    RETURNING id, payload, priority, attempts
"""  # noqa: S608

_TAKE_EXPIRED = f"""
    UPDATE {_TABLE}
    SET taken_until = clock_timestamp() + %(retry)s * interval '1 second',
        taken_by = %(taken_by)s,
        attempts = attempts + 1
    WHERE id = ANY(ARRAY(
        SELECT id FROM {_TABLE}
        WHERE queue = %(queue)s AND taken_until < clock_timestamp()
        ORDER BY taken_until
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
      AND {_NO_WAIT_FOR_DISK}
    RETURNING id, payload, priority, attempts
"""  # noqa: S608

_DELETE = f"DELETE FROM {_TABLE} WHERE id = %(id)s AND {_NO_WAIT_FOR_DISK}"  # noqa: S608

_Job = tuple[int, str]
_Row = tuple[int, str, int, int]


class PostgresBroker(Broker):
    """django-q2's broker interface. One instance belongs to one process; copies share nothing."""

    def __init__(self, list_key: str | None = None) -> None:
        self._reset()
        super().__init__(list_key or settings.Q_CLUSTER["name"])

    def _reset(self) -> None:
        self._coalesce_key: str | None = None
        self._delay_seconds = 0.0
        self._priority = 0
        self._listener: psycopg.Connection[Any] | None = None
        self._listener_pid = 0
        self._expiry_scan_due = 0.0

    def __setstate__(self, state: tuple[str, str | None]) -> None:
        # Broker pickles its list_key alone: a connection must never travel to another process.
        self._reset()
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def with_options(
        self, *, coalesce_key: str | None = None, delay_seconds: float = 0.0, priority: int = 0
    ) -> Self:
        """A broker whose `enqueue` uses these. The higher `priority` goes first; most jobs have 0."""
        broker = copy.copy(self)
        broker._reset()
        broker._coalesce_key, broker._delay_seconds, broker._priority = coalesce_key, delay_seconds, priority
        return broker

    # --- the caller's side ---

    def enqueue(self, task: str) -> int:
        """Add or nudge a job in the caller's transaction; returns the row's id."""
        values = {
            "queue": self.list_key,
            "key": self._coalesce_key,
            "priority": self._priority,
            "payload": task,
            "delay": self._delay_seconds,
        }
        with connection.cursor() as cursor:
            cursor.execute(_ENQUEUE, values)
            (job_id,) = cursor.fetchone()
            if self._delay_seconds <= 0:
                # Sent at commit. Several in one transaction are one notification.
                cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, self.list_key])
        return cast("int", job_id)

    # --- the pusher's side ---

    def dequeue(self) -> list[_Job] | None:
        """Jobs to run now, best first; waits up to POLL_SECONDS for one. None when there was nothing.

        A database that is away is waited for here: an exception would stop the pusher for ten seconds.
        """
        try:
            # Listen before looking: what is committed after the look is announced to us.
            self._listen()
            return self._take() or self._wait() or None
        except (OperationalError, InterfaceError, psycopg.OperationalError) as error:
            logger.warning("The job queue's database does not answer: %s", error)
            self._hang_up()
            time.sleep(RECONNECT_SECONDS)
            return None

    def acknowledge(self, task_id: int) -> None:
        self.delete(task_id)

    def fail(self, task_id: int) -> None:
        """A job that cannot even be read. It is logged and dropped: the sweep finds what it stood for."""
        logger.error("Dropped job %s: its payload cannot be read", task_id)
        self.delete(task_id)

    def delete(self, task_id: int) -> None:
        try:
            self._execute_delete(task_id)
        except (OperationalError, InterfaceError):
            # The connection broke while this process was idle. It is in no transaction, so once more.
            connection.close()
            self._execute_delete(task_id)

    # --- figures and housekeeping ---

    def queue_size(self) -> int:
        """Jobs that wait, those with a time in the future included."""
        return self._rows().filter(taken_until__isnull=True).count()

    def lock_size(self) -> int:
        """Jobs that were taken and not acknowledged yet."""
        return self._rows().filter(taken_until__isnull=False).count()

    def purge_queue(self) -> int:
        deleted, _ = self._rows().delete()
        return deleted

    def delete_queue(self) -> int:
        return self.purge_queue()

    def ping(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return True

    def info(self) -> str:
        return "PostgreSQL with LISTEN/NOTIFY"

    # --- inside ---

    def _rows(self) -> "models.QuerySet[QueuedJob]":
        return QueuedJob.objects.filter(queue=self.list_key)

    def _take(self) -> list[_Job]:
        rows = self._execute_take(_TAKE)
        if time.monotonic() >= self._expiry_scan_due:
            self._expiry_scan_due = time.monotonic() + EXPIRY_SCAN_SECONDS
            rows += self._take_back()
        rows.sort(key=lambda row: (-row[2], row[0]))
        return [(job_id, payload) for job_id, payload, _priority, _attempts in rows]

    def _take_back(self) -> list[_Row]:
        """Jobs that somebody took and did not bring to an end, without those handed out too often."""
        self._release_dead()
        most = settings.Q_CLUSTER["max_attempts"]
        rows = []
        for job_id, payload, priority, attempts in self._execute_take(_TAKE_EXPIRED):
            if attempts <= most:
                rows.append((job_id, _counted(payload), priority, attempts))
                continue
            logger.error("Dropped job %s: it was handed out %s times and never ended", job_id, most)
            self.delete(job_id)
        return rows

    def _release_dead(self) -> None:
        """Have what this machine's dead clusters had taken handed out again, and not only in its time."""
        taken = self._rows().filter(taken_until__gt=Now(), taken_by__startswith=f"{processes.machine()}:")
        names = taken.values_list("taken_by", flat=True).distinct()
        dead = [name for name in names if processes.is_dead(name)]
        if dead and (released := taken.filter(taken_by__in=dead).update(taken_until=Now())):
            logger.warning("Released %s jobs of a cluster that died", released)

    def _execute_take(self, statement: str) -> list[_Row]:
        values: dict[str, str | int] = {
            "queue": self.list_key,
            "retry": settings.Q_CLUSTER["retry"],
            # The pusher's parent, the cluster's guard, which ends when any part of the cluster dies.
            "taken_by": processes.name(os.getppid()),
            "limit": settings.Q_CLUSTER["bulk"],
        }
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cast("list[_Row]", cursor.fetchall())

    def _execute_delete(self, job_id: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_DELETE, {"id": job_id})

    def _wait(self) -> list[_Job]:
        assert self._listener is not None
        for _notice in self._listener.notifies(timeout=POLL_SECONDS, stop_after=1):
            pass
        # Looking again also without a notice is the polling fallback, and finds delayed jobs.
        return self._take()

    def _listen(self) -> None:
        """Open the listening connection, unless this very process has one.

        After a fork the child sees its parent's: it is dropped without a word to the server, since both
        processes hold the same socket and a farewell would end the parent's session.
        """
        if self._listener is not None and self._listener_pid == os.getpid() and not self._listener.closed:
            return
        parameters = connection.get_connection_params()
        for name in ("pool", "cursor_factory", "context"):
            parameters.pop(name, None)
        parameters["application_name"] = "slipway-listen"
        self._listener = psycopg.connect(**parameters, autocommit=True)
        self._listener_pid = os.getpid()
        self._listener.execute(f"LISTEN {CHANNEL}")

    def _hang_up(self) -> None:
        if self._listener is not None and self._listener_pid == os.getpid():
            self._listener.close()
        self._listener = None
        connection.close()


def _counted(payload: str) -> str:
    """The job as a call of RUN_AGAIN with what it calls; one that is not ours is left to `fail`."""
    try:
        job = cast("dict[str, Any]", SignedPackage.loads(payload))
    except (TypeError, BadSignature):
        return payload
    job["args"] = (job["func"], *job["args"])
    job["func"] = RUN_AGAIN
    return SignedPackage.dumps(job)
