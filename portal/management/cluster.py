"""Runs the django-q2 cluster so that no death inside it can freeze or orphan anything.

Two weaknesses of a pool of forked processes are answered here. A process that is killed while it holds a
queue's lock freezes all who share the queue, and nobody can see whether it held it: so any sudden death
inside restarts the whole cluster, which takes half a second and costs nothing, since jobs are idempotent
and the broker hands those of a dead cluster out again at once. And when the parent is killed its children
would work on: so each child asks the kernel to die with it.
"""

import ctypes
import logging
import os
import signal
import threading
import time
import uuid
from ctypes import c_double
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event as SharedEvent
from typing import Any

from django.conf import settings
from django.db import connections
from django_q.cluster import Sentinel

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
# The guard loop beats every half second. Silent for this long it hangs on a dead process's lock.
SILENT_SECONDS = 10.0
LOOK_SECONDS = 0.2
RESTART_SECONDS = 0.5
STOP_SECONDS = 10.0
TIMED_OUT, RECYCLED = 0, -2
EXIT_BROKEN = 70

_fork = get_context("fork")


class StrictSentinel(Sentinel):
    """The cluster's guard, which gives up at a sudden death instead of replacing the dead process."""

    def __init__(self, stop_event: SharedEvent, beat: c_double) -> None:
        # A group of our own: a signal to the whole group of the command must not kill workers in the
        # middle of a job. The command is told, and stops us in order.
        os.setpgid(0, 0)
        self.beat = beat
        super().__init__(stop_event, _fork.Event(), uuid.uuid4())  # type: ignore[no-untyped-call]

    def status(self) -> str:
        """Asked once in every round of the guard loop, which makes it the loop's heartbeat."""
        self.beat.value = time.monotonic()
        return str(super().status())

    def reincarnate(self, process: Any) -> None:
        planned = process in self.pool and int(process.timer.value) in (TIMED_OUT, RECYCLED)
        if not planned:
            logger.critical("Process %s of the cluster died: the cluster starts anew", process.pid)
            os._exit(EXIT_BROKEN)
        super().reincarnate(process)  # type: ignore[no-untyped-call]


def run(stop: threading.Event) -> None:
    """Keep a cluster running until `stop` is set; then let it finish the jobs in hand."""
    _children_die_with_us()
    while not stop.is_set():
        stop_event, sentinel, beat = _start()
        while not stop.is_set() and _is_well(sentinel, beat):
            wait([sentinel.sentinel], timeout=LOOK_SECONDS)
        if stop.is_set():
            stop_event.set()
            sentinel.join(settings.Q_CLUSTER["timeout"] + STOP_SECONDS)
        sentinel.kill()
        sentinel.join()
        stop.wait(RESTART_SECONDS)


def _start() -> tuple[SharedEvent, ForkProcess, c_double]:
    # A connection shared over a fork garbles both sides.
    connections.close_all()
    stop_event = _fork.Event()
    # Without a lock: a killed sentinel could take it along.
    beat = _fork.RawValue(c_double, time.monotonic())
    sentinel = _fork.Process(target=StrictSentinel, args=(stop_event, beat), name="sentinel")
    sentinel.start()
    return stop_event, sentinel, beat


def _is_well(sentinel: ForkProcess, beat: c_double) -> bool:
    if not sentinel.is_alive():
        logger.error("The cluster ended with code %s and is started again", sentinel.exitcode)
        return False
    silent_seconds = time.monotonic() - beat.value
    if silent_seconds > SILENT_SECONDS:
        logger.critical("The cluster is silent for %.0f s and is started again", silent_seconds)
        return False
    return True


def _children_die_with_us() -> None:
    """Have the kernel kill every forked child, and its forks, when the one who forked it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        return
    parent = os.getpid()

    def remember() -> None:
        nonlocal parent
        parent = os.getpid()

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the call, and then no signal comes.
        if os.getppid() != parent:
            os._exit(EXIT_BROKEN)

    os.register_at_fork(before=remember, after_in_child=bind)
