"""Append to the audit log, in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

import msgspec
from django.db import connection


class NewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`before` and `after` are small JSON objects: the fields that changed, never a secret."""

    actor_kind: str
    actor_id: str
    actor_name: str
    verb: str
    object_kind: str
    object_id: str
    object_name: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    reason: str = ""
    request_id: str = ""
    address: str = ""


COLUMNS = ", ".join(NewEntry.__struct_fields__)
INSERT = f"""
    INSERT INTO audit_entry ({COLUMNS})
    SELECT {COLUMNS} FROM jsonb_to_recordset(%s::jsonb) AS entry(
        actor_kind text, actor_id text, actor_name text, verb text, object_kind text, object_id text,
        object_name text, before jsonb, after jsonb, reason text, request_id text, address text)
"""  # noqa: S608  # the columns are the struct's own field names


def append(entries: Sequence[NewEntry]) -> None:
    """Write all entries in one statement. No audit, no change: an error here ends the transaction."""
    if not entries:
        return
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [msgspec.json.encode(entries).decode()])
