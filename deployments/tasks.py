"""Entry points of jobs: what django-q2 calls. Short, idempotent, safe to be called twice or late.

No error here may stop a rollout for ever, nor keep a worker busy for ever. What happens in any system (a
lease lost, a deadlock, a database that goes away) is tried again soon. Anything else is a fault: it is
counted where people can see it, tried again later each time, and in the end left alone.
"""

from pydoc import locate
from typing import Any
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, connection
from django_q.exceptions import TimeoutException

from deployments import queueing
from deployments.domain.actor import Actor
from deployments.engine import lease
from deployments.engine import tick as engine
from deployments.errors import LeaseLost, StaleState
from deployments.services import faults

log = structlog.get_logger(__name__)

SOON_SECONDS = 1.0


def tick(rollout_id: str) -> None:
    """Have the engine look at a rollout."""
    _tick(rollout_id, is_counted=False)


def run_again(function: str, *args: Any) -> None:
    """Call `function`, whose worker died the last time, or was too slow: perhaps because of this very job.

    The attempt is counted before it begins. A job that kills each worker is in quarantine after a few.
    """
    subject = str(args[0]) if args else ""
    if function == queueing.TICK:
        # The dead worker's lease would stand in the way for as long as it had asked for.
        lease.free(UUID(subject))
    if not faults.count_attempt(actor=Actor.system("worker"), function=function, subject=subject):
        return
    if function == queueing.TICK:
        _tick(subject, is_counted=True)
        return
    called: Any = locate(function)
    if not callable(called):
        raise LookupError(f"There is no job {function}")
    try:
        called(*args)
    finally:
        # However it ended, its worker is alive.
        faults.settle_fault(function=function, subject=subject, has_run=True)


def _tick(rollout_id: str, *, is_counted: bool) -> None:
    subject = UUID(rollout_id)
    try:
        looked = engine.tick(subject)
    except LeaseLost:
        log.info("another worker took the rollout over", rollout_id=rollout_id)
        if is_counted:
            faults.settle_fault(function=queueing.TICK, subject=rollout_id, has_run=False, is_counted=True)
    except (StaleState, OperationalError, InterfaceError) as error:
        log.warning("a tick is tried again", rollout_id=rollout_id, error=faults.one_line(error))
        if isinstance(error, OperationalError | InterfaceError) and not connection.in_atomic_block:
            # It may be this very connection that broke; the next statement opens another.
            connection.close()
        lease.free(subject)
        if is_counted:
            faults.settle_fault(function=queueing.TICK, subject=rollout_id, has_run=False, is_counted=True)
        queueing.tick(subject, delay_seconds=SOON_SECONDS)
    except (Exception, TimeoutException) as error:
        log.exception("a tick failed", rollout_id=rollout_id)
        lease.free(subject)
        faults.note_fault(
            actor=Actor.system("worker"),
            function=queueing.TICK,
            subject=rollout_id,
            error=error,
            is_counted=is_counted,
        )
    else:
        faults.settle_fault(function=queueing.TICK, subject=rollout_id, has_run=looked, is_counted=is_counted)
