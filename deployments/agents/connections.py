"""Which web process holds which agent's socket. One agent has one: a later connection ends the earlier."""

from collections.abc import Collection
from uuid import UUID

import msgspec
from django.db import connection, transaction

from deployments.models import Agent, Target

CHANNEL = "slipway_agents"
"""Payload: `AGENT_ID PROCESS`: the agent connected to this process, all others let go of it."""

CONNECT = """
    UPDATE deployments_agent
    SET connected_to = %(process)s, connected_at = clock_timestamp(), last_seen_at = clock_timestamp(),
        hostname = %(hostname)s, software = %(software)s
    WHERE id = %(agent)s AND revoked_at IS NULL RETURNING id
"""
DISCONNECT = "UPDATE deployments_agent SET connected_to = '' WHERE id = ANY(%s) AND connected_to = %s"


class Connected(msgspec.Struct, frozen=True):
    targets: dict[str, str]
    """Target id -> name."""


def key_of(agent_id: UUID) -> bytes | None:
    """The agent's public key; None for an agent that is unknown or revoked."""
    key = Agent.objects.filter(pk=agent_id, revoked_at=None).values_list("public_key", flat=True).first()
    return bytes(key) if key is not None else None


def connect(agent_id: UUID, process: str, *, hostname: str, software: str) -> Connected | None:
    """Note that `process` holds the agent's socket now; None when the agent was revoked meanwhile."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            CONNECT,
            {
                "process": process,
                "agent": agent_id,
                "hostname": hostname.replace("\0", "")[:255],
                "software": software.replace("\0", "")[:64],
            },
        )
        if cursor.fetchone() is None:
            return None
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"{agent_id} {process}"])
        targets = Target.objects.filter(agent_id=agent_id).values_list("id", "name")
        return Connected({str(target_id): name for target_id, name in targets})


def disconnect(agent_ids: Collection[UUID], process: str) -> None:
    """Note that `process` no longer holds these agents' sockets, where nobody else took them over."""
    with connection.cursor() as cursor:
        cursor.execute(DISCONNECT, [list(agent_ids), process])


def lost(agent_ids: Collection[UUID], process: str) -> set[UUID]:
    """Those of `process`'s agents that were revoked, deleted or taken over by another process."""
    kept = Agent.objects.filter(pk__in=agent_ids, revoked_at=None, connected_to=process)
    return set(agent_ids) - set(kept.values_list("id", flat=True))
