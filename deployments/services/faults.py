"""Jobs that fail: counted by what they are about, put in quarantine after some, released by a person.

Without this, one rollout whose data the engine cannot digest would be tried for ever, or would take the
workers down again and again, and every other rollout with it. Counting is the workers' own business and
asks for no permission; only `release_fault` is a person's.
"""

from datetime import datetime, timedelta
from traceback import format_exception
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from deployments import access, events, queueing
from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE
from deployments.domain.waiting import Waiting
from deployments.errors import Invalid, NotFound
from deployments.models import JobFault, Rollout
from deployments.services.planning import UNTICKED

MAX_FAILURES = 5
"""In a row; then the job is in quarantine."""
FIRST_DELAY_SECONDS = 1.0
TRACEBACK_BYTES = 20_000
ERROR_LETTERS = 300
NO_SURVIVOR = "No worker survived it: each process that ran it died or was stopped after its time"

# An attempt that is counted before it begins has no traceback, and leaves an earlier one as it is.
COUNT = """
    INSERT INTO deployments_jobfault AS fault (function, subject, error, traceback, failures, released_by)
    VALUES (%(function)s, %(subject)s, %(error)s, %(traceback)s, 1, '')
    ON CONFLICT (function, subject) WHERE released_at IS NULL
    DO UPDATE SET
        failures = fault.failures + %(more)s, last_at = statement_timestamp(),
        error = CASE WHEN excluded.traceback = '' AND fault.traceback <> '' THEN fault.error
                     ELSE excluded.error END,
        traceback = CASE WHEN excluded.traceback = '' THEN fault.traceback ELSE excluded.traceback END
    WHERE fault.quarantined_at IS NULL
"""
HOLD_BACK = """
    UPDATE deployments_rollout SET next_check_at = %(until)s
    WHERE id = %(id)s AND state = ANY(%(active)s) AND next_check_at < %(until)s
"""


@transaction.atomic
def note_fault(
    *, actor: Actor, function: str, subject: str, error: BaseException, is_counted: bool = False
) -> JobFault:
    """Keep what went wrong in `function(subject)`, and have it tried again, later each time.

    `is_counted`: this attempt was counted before it began. After MAX_FAILURES it goes to quarantine.
    """
    text = "".join(format_exception(error))
    fault = _count(function, subject, one_line(error), _last_bytes(text), more=0 if is_counted else 1)
    if fault.quarantined_at is not None:
        return fault
    if fault.failures >= MAX_FAILURES:
        return _quarantine(actor, fault)
    delay_seconds = FIRST_DELAY_SECONDS * 2 ** (fault.failures - 1)
    if function == queueing.TICK:
        # The sweep for due timers would bring it back at once.
        until = fault.last_at + timedelta(seconds=delay_seconds)
        with connection.cursor() as cursor:
            cursor.execute(HOLD_BACK, {"id": UUID(subject), "until": until, "active": sorted(ACTIVE)})
    queueing.call(function, subject, delay_seconds=delay_seconds)
    return fault


@transaction.atomic
def count_attempt(*, actor: Actor, function: str, subject: str) -> bool:
    """Count an attempt that its worker may not survive; False where it must not be made any more."""
    fault = _count(function, subject, NO_SURVIVOR, "", more=1)
    if fault.quarantined_at is None and fault.failures >= MAX_FAILURES:
        _quarantine(actor, fault)
    return fault.quarantined_at is None


def settle_fault(*, function: str, subject: str, has_run: bool, is_counted: bool = False) -> None:
    """Begin to count anew after a success.

    `has_run` is False where there was nothing to do, or another worker was at it. That is no success, but
    no failure either, if it was counted as one beforehand.
    """
    faults = JobFault.objects.filter(
        function=function, subject=subject, released_at__isnull=True, quarantined_at__isnull=True
    )
    if not has_run and is_counted:
        faults.update(failures=F("failures") - 1)
    if not has_run:
        has_ended = function == queueing.TICK and not Rollout.objects.active().filter(pk=subject).exists()
        faults = faults if has_ended else faults.filter(failures=0)
    faults.delete()


@transaction.atomic
def release_fault(*, actor: Actor, fault_id: int, reason: str) -> JobFault:
    """Try it again, now, and count anew; a rollout in quarantine is the engine's again."""
    access.require(actor, "fault.release")
    fault = JobFault.objects.select_for_update().filter(pk=fault_id).first()
    if fault is None:
        raise NotFound
    if not reason.strip():
        raise Invalid(reason="Say why: it stands in the audit log.")
    if fault.released_at is not None:
        return fault
    before = {"failures": fault.failures, "error": fault.error}
    JobFault.objects.filter(pk=fault.pk).update(released_at=Now(), released_by=actor.name[:150])
    fault.refresh_from_db()
    after = {"released_at": fault.released_at}
    change = events.done("fault.release", fault, before=before, after=after, reason=reason)
    events.record(actor=actor, changes=[change])
    if rollout := _rollout(fault):
        _tell(actor, rollout, None, UNTICKED, fault.released_at, verb="rollout.unquarantine", reason=reason)
    queueing.call(fault.function, fault.subject)
    return fault


def one_line(error: BaseException) -> str:
    """`ValueError: what it said`, without its other lines."""
    said = str(error).strip().partition("\n")[0]
    name = type(error).__name__
    return _clean(f"{name}: {said}" if said else name)[:ERROR_LETTERS]


def _count(function: str, subject: str, error: str, traceback: str, *, more: int) -> JobFault:
    values: dict[str, str | int] = {
        "function": function,
        "subject": subject,
        "error": error,
        "traceback": traceback,
        "more": more,
    }
    with connection.cursor() as cursor:
        cursor.execute(COUNT, values)
    return JobFault.objects.get(function=function, subject=subject, released_at__isnull=True)


def _quarantine(actor: Actor, fault: JobFault) -> JobFault:
    JobFault.objects.filter(pk=fault.pk).update(quarantined_at=Now())
    fault.refresh_from_db()
    assert fault.quarantined_at is not None
    change = events.done(
        "fault.quarantine",
        fault,
        after={"failures": fault.failures, "error": fault.error},
        reason=fault.error,
    )
    events.record(actor=actor, changes=[change])
    if rollout := _rollout(fault):
        waiting = Waiting(
            kind="fault",
            subject=f"fault:{fault.pk}",
            sentence=(
                f"The engine failed {fault.failures} times in a row at this rollout and leaves it alone: "
                f"{fault.error}"
            ),
            who="an administrator, who finds the cause on the page of faults and releases it",
            unblock=("release", "cancel"),
        )
        at = fault.quarantined_at
        _tell(actor, rollout, at, waiting, at, verb="rollout.quarantine", reason=fault.error)
    return fault


def _tell(
    actor: Actor,
    rollout: Rollout,
    quarantined_at: datetime | None,
    waiting: Waiting,
    since: datetime | None,
    *,
    verb: str,
    reason: str,
) -> None:
    """Write on the rollout itself what has become of it, for the engine, its page and the audit log."""
    said = msgspec.to_builtins(msgspec.structs.replace(waiting, since=since))
    before = {"quarantined_at": rollout.quarantined_at}
    # No timer in quarantine, which nothing but a person ends; after it the clock looks too.
    check_at = None if quarantined_at else since
    Rollout.objects.filter(pk=rollout.pk).update(
        quarantined_at=quarantined_at, waiting_on=said, next_check_at=check_at
    )
    change = events.Change(
        verb=verb,
        object_kind="rollout",
        object_id=str(rollout.pk),
        object_name=str(rollout),
        before=before,
        after={"quarantined_at": quarantined_at},
        reason=reason,
        event="rollout.waiting",
        data={"waiting_on": said},
    )
    events.record(actor=actor, changes=[change], rollout_id=rollout.pk)


def _rollout(fault: JobFault) -> Rollout | None:
    """What a tick is about, locked; None for other jobs, and for a rollout that is at its end."""
    if fault.function != queueing.TICK:
        return None
    rollouts = Rollout.objects.active().select_related("release", "environment")
    return rollouts.select_for_update(of=("self",), no_key=True).filter(pk=fault.subject).first()


def _last_bytes(text: str) -> str:
    """The end of a traceback, which says most."""
    kept = text.encode(errors="replace")[-TRACEBACK_BYTES:].decode(errors="ignore")
    return _clean(kept)


def _clean(text: str) -> str:
    """As the database can take it."""
    return text.encode(errors="replace").decode().replace("\0", "")
