"""Jobs that failed and what became of them, for administrators, with the button that tries one again."""

import dataclasses
from datetime import datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import Invalid
from deployments.reads import faults
from deployments.services.faults import release_fault
from portal.ui.errors import page
from portal.ui.format import ago, plural
from portal.ui.lists import asked, link
from portal.ui.steering import ReasonForm

SHOWN = 20
LOOKS = {"quarantined": "failed", "retrying": "activating", "released": "pending"}
"""The state whose colour and icon each has."""
LABELS = {"quarantined": "in quarantine", "retrying": "trying again", "released": "released"}


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    fault_id: int
    reason: str
    """As it was typed."""
    wrong: str
    """What is wrong with it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    id: int
    title: str
    rollout_id: str
    """"" for a job that is about no rollout."""
    job: str
    look: str
    label: str
    error: str
    traceback: str
    times: str
    first: SafeString | str
    last: SafeString | str
    released: SafeString | str
    released_by: str
    is_open: bool
    refused: Refused | None = None
    """The reason that was given for this one, where it was refused."""


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    return _page(request, actor)


@page
@require_POST
def release(request: HttpRequest, actor: Actor, fault_id: int) -> HttpResponse:
    access.require(actor, "fault.release")
    form = ReasonForm(request.POST)
    if not form.is_valid():
        wrong = " ".join(map(str, form.errors["reason"]))
        return _page(request, actor, 422, Refused(fault_id, form["reason"].value() or "", wrong))
    try:
        fault = release_fault(actor=actor, fault_id=fault_id, reason=form.cleaned_data["reason"])
    except Invalid as error:
        refused = Refused(fault_id, form.cleaned_data["reason"], error.message)
        return _page(request, actor, error.status, refused)
    messages.info(request, f"Fault {fault.pk} is released: it is being tried again.")
    return redirect("faults")


def _page(
    request: HttpRequest, actor: Actor, status: int = 200, refused: Refused | None = None
) -> HttpResponse:
    query = asked(request, "before", "released")
    released = bool(query["released"])
    found, next_before = faults.history(actor, released=released, before=query["before"], size=SHOWN)
    now = timezone.now()
    context = {
        "faults": [_row(item, now, refused) for item in found],
        "is_released": released,
        "more": next_before and link(request, before=next_before),
    }
    return render(request, "ui/faults.html", context, status=status)


def _row(item: faults.FaultOf, now: datetime, refused: Refused | None) -> FaultRow:
    fault, rollout = item.fault, item.rollout
    return FaultRow(
        id=fault.pk,
        title=f"Rollout of {rollout}" if rollout else f"Job {fault.function}",
        rollout_id=str(rollout.pk) if rollout else "",
        job=f"{fault.function}({fault.subject})",
        look=LOOKS[item.state],
        label=LABELS[item.state],
        error=fault.error,
        traceback=fault.traceback,
        times=plural(fault.failures, "time"),
        first=ago(fault.first_at, now),
        last=ago(fault.last_at, now),
        released=ago(fault.released_at, now),
        released_by=fault.released_by,
        is_open=fault.released_at is None,
        refused=refused if refused and refused.fault_id == fault.pk else None,
    )
