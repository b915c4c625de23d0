"""Services' output on its way from the agents to whoever looks at a target."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction

from deployments import protocol
from deployments.agents import texts

CHANNEL = "slipway_logs"
"""Payload: the id of a target that has more."""

KEPT_CHUNKS = 200
INSERT = """
    INSERT INTO deployments_logchunk (target_id, text, dropped)
    SELECT chunk.target_id, chunk.text, chunk.dropped
    FROM jsonb_to_recordset(%s::jsonb) AS chunk(
        position integer, agent_id uuid, target_id uuid, text text, dropped integer)
    JOIN deployments_target target ON target.id = chunk.target_id AND target.agent_id = chunk.agent_id
    ORDER BY chunk.position RETURNING target_id
"""
PRUNE = """
    DELETE FROM deployments_logchunk WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY target_id ORDER BY id DESC) AS age
            FROM deployments_logchunk WHERE target_id = ANY(%s)) AS chunk
        WHERE age > %s)
"""

Chunk = tuple[UUID, protocol.LogChunk]
"""Agent id (as its connection proved it) and what it sent."""


def append(chunks: Sequence[Chunk]) -> set[UUID]:
    """Write the chunks of agents' own targets in one statement; return the targets that got some."""
    rows = [row for position, chunk in enumerate(chunks) if (row := _row(position, chunk))]
    if not rows:
        return set()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(INSERT, [msgspec.json.encode(rows).decode()])
        targets = {target_id for (target_id,) in cursor.fetchall()}
        cursor.execute(
            "SELECT pg_notify(%s, id::text) FROM unnest(%s::uuid[]) AS id", [CHANNEL, list(targets)]
        )
    return targets


def prune(target_ids: Collection[UUID]) -> None:
    """Delete all but the newest chunks of these targets."""
    with connection.cursor() as cursor:
        cursor.execute(PRUNE, [list(target_ids), KEPT_CHUNKS])


def _row(position: int, chunk: Chunk) -> dict[str, Any] | None:
    agent_id, message = chunk
    target_id = texts.as_id(message.target_id)
    if target_id is None or not message.text:
        return None
    return {
        "position": position,
        "agent_id": agent_id,
        "target_id": target_id,
        "text": texts.column(message.text, protocol.MAX_LOG_BYTES),
        "dropped": min(max(message.dropped, 0), 2**31 - 1),
    }
