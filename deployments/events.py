"""record(): events, their audit entries and their notification, in the caller's transaction.

An event is numbered within its rollout while the rollout's row is locked, so numbers have no gaps and
follow the order of commits. The notification says only which rollout has more; it reaches listeners
on commit.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, models

from audit import log
from deployments.domain.actor import Actor

CHANNEL = "slipway_events"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. With `event` it is shown live; unless `audited` is off, it is evidence."""

    verb: str
    object_kind: str
    object_id: str
    object_name: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str = ""
    event: str = ""
    """Kind of the event; empty: audit only."""
    audited: bool = True
    """Off only for what is no action and no change of state, such as a change of what is waited for."""
    data: Mapping[str, Any] = {}
    """What the live page needs, beside `id`, `name`, `before`, `after` and `reason`."""


INSERT = """
    WITH counted AS (
        UPDATE deployments_rollout SET event_count = event_count + %(n)s WHERE id = %(rollout)s
        RETURNING event_count - %(n)s AS before)
    INSERT INTO deployments_event (rollout_id, number, kind, data)
    SELECT %(rollout)s, counted.before + item.ordinality, item.value ->> 'kind', item.value -> 'data'
    FROM counted, (SELECT pg_notify(%(channel)s, %(rollout)s::text)) AS told,
         jsonb_array_elements(%(items)s::jsonb) WITH ORDINALITY AS item
"""


def record(*, actor: Actor, changes: Sequence[Change], rollout_id: UUID | None = None) -> None:
    """Write `changes` in a constant number of statements, however many they are."""
    if not changes:
        return
    log.append([_entry(actor, change) for change in changes if change.audited])
    shown = [_event(change) for change in changes if change.event]
    if rollout_id is None or not shown:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT,
            {
                "n": len(shown),
                "rollout": rollout_id,
                "items": msgspec.json.encode(shown).decode(),
                "channel": CHANNEL,
            },
        )


def done(
    verb: str,
    subject: models.Model,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
    event: str = "",
) -> Change:
    """A Change about a row, named as people know it."""
    return Change(
        verb=verb,
        object_kind=str(subject._meta.verbose_name).replace(" ", "_"),
        object_id=str(subject.pk),
        object_name=str(subject)[:300],
        before=before,
        after=after,
        reason=reason,
        event=event,
    )


def _entry(actor: Actor, change: Change) -> log.NewEntry:
    return log.NewEntry(
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_name=actor.name,
        verb=change.verb,
        object_kind=change.object_kind,
        object_id=change.object_id,
        object_name=change.object_name,
        before=dict(change.before) if change.before is not None else None,
        after=dict(change.after) if change.after is not None else None,
        reason=change.reason,
        request_id=actor.request_id,
        address=actor.address,
    )


def _event(change: Change) -> dict[str, Any]:
    data = {"id": change.object_id, "name": change.object_name, **change.data}
    if change.before is not None:
        data["before"] = change.before
    if change.after is not None:
        data["after"] = change.after
    if change.reason:
        data["reason"] = change.reason
    return {"kind": change.event, "data": data}
