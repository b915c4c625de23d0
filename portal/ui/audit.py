"""The audit log as a list, for administrators."""

import dataclasses
from datetime import datetime

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString

from audit.models import Entry
from deployments import access
from deployments.domain.actor import Actor
from deployments.reads.page import by_number
from portal.ui.errors import page
from portal.ui.format import ago, one_line
from portal.ui.lists import asked, link

FILTERS = ("object_kind", "object_id", "actor_name", "verb")


@dataclasses.dataclass(frozen=True, slots=True)
class EntryRow:
    number: int
    when: SafeString | str
    actor: str
    actor_kind: str
    verb: str
    object_kind: str
    object_id: str
    object_label: str
    before: str
    after: str
    reason: str
    request_id: str
    address: str


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    access.require(actor, "audit.view")
    filters = asked(request, *FILTERS)
    entries = Entry.objects.filter(**{name: value for name, value in filters.items() if value})
    found = by_number(entries, request.GET.get("before", ""), size=50)
    now = timezone.now()
    context = {
        "filters": filters,
        "is_filtered": any(filters.values()),
        "entries": [_row(entry, now) for entry in found.items],
        "more": found.next_before and link(request, before=found.next_before),
    }
    return render(request, "ui/audit.html", context)


def _row(entry: Entry, now: datetime) -> EntryRow:
    return EntryRow(
        number=entry.id,
        when=ago(entry.at, now),
        actor=entry.actor_name,
        actor_kind=entry.actor_kind,
        verb=entry.verb,
        object_kind=entry.object_kind,
        object_id=entry.object_id,
        object_label=_label(entry),
        before=one_line(entry.before),
        after=one_line(entry.after),
        reason=entry.reason,
        request_id=entry.request_id,
        address=entry.address,
    )


def _label(entry: Entry) -> str:
    """`rollout orders 1.1 to prod`; without saying `batch` twice where the name begins with it."""
    name = entry.object_name or entry.object_id
    return name if name.startswith(entry.object_kind) else f"{entry.object_kind} {name}"
