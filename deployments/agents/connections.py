"""Which web process holds which agent's socket. One agent has one: a later connection ends the earlier."""

from collections.abc import Mapping
from uuid import UUID

from django.db import connection, transaction

from deployments import queueing
from deployments.agents import texts
from deployments.domain.states import MOVING
from deployments.models import Agent, Target

CHANNEL = "slipway_agents"
"""Payload: the id of an agent that has just connected somewhere."""

CONNECT = """
    UPDATE deployments_agent
    SET connected_to = %(place)s, connected_at = clock_timestamp(), last_seen_at = clock_timestamp(),
        hostname = %(hostname)s, software = %(software)s
    WHERE id = %(agent)s AND revoked_at IS NULL RETURNING id
"""
# In the order of ids, as everybody who locks several agents: two web processes must not block each other.
DISCONNECT = """
    WITH left_here AS (
        SELECT agent.id FROM deployments_agent agent
        JOIN unnest(%s::uuid[], %s::text[]) AS held(id, place)
          ON agent.id = held.id AND agent.connected_to = held.place
        ORDER BY agent.id FOR NO KEY UPDATE OF agent)
    UPDATE deployments_agent SET connected_to = '' FROM left_here WHERE deployments_agent.id = left_here.id
"""
ROLLOUTS = """
    SELECT DISTINCT rollout.id FROM deployments_target target
    JOIN deployments_rollouttarget progress ON progress.target_id = target.id
    JOIN deployments_rollout rollout ON rollout.id = progress.rollout_id
    WHERE target.agent_id = %s AND rollout.state = ANY(%s) ORDER BY rollout.id
"""


HELD = """
    SELECT count(*) FROM deployments_agent
    WHERE starts_with(connected_to, %s || '/') AND revoked_at IS NULL
"""
LOST = """
    SELECT held.id, agent.id IS NULL FROM unnest(%s::uuid[], %s::text[]) AS held(id, place)
    LEFT JOIN deployments_agent agent ON agent.id = held.id AND agent.revoked_at IS NULL
    WHERE agent.id IS NULL OR agent.connected_to <> held.place
"""


def key_of(agent_id: UUID) -> bytes | None:
    """The agent's public key; None for an agent that is unknown or revoked."""
    key = Agent.objects.filter(pk=agent_id, revoked_at=None).values_list("public_key", flat=True).first()
    return bytes(key) if key is not None else None


def connect(agent_id: UUID, place: str, *, hostname: str, software: str) -> dict[str, str] | None:
    """Note that the agent's socket is at `place`, which names web process and connection.

    The engine is woken for the moving rollouts that the agent takes part in: they may have waited for it.
    Returns what the agent serves, target id -> name, or None when it was revoked in the meantime.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            CONNECT,
            {
                "place": place,
                "agent": agent_id,
                "hostname": texts.column(hostname, 255),
                "software": texts.column(software, 64),
            },
        )
        if cursor.fetchone() is None:
            return None
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(agent_id)])
        targets = Target.objects.filter(agent_id=agent_id).values_list("id", "name")
        served = {str(target_id): name for target_id, name in targets}
        cursor.execute(ROLLOUTS, [agent_id, sorted(MOVING)])
        for (rollout_id,) in cursor.fetchall():
            queueing.tick(rollout_id)
        return served


def disconnect(held: Mapping[UUID, str]) -> None:
    """Note that these agents' sockets (agent id -> place) are gone, where no later one took over."""
    with connection.cursor() as cursor:
        cursor.execute(DISCONNECT, [list(held), list(held.values())])


def count_held(process: str) -> int:
    """How many agents that are not revoked have their socket at this web process, by the rows."""
    with connection.cursor() as cursor:
        cursor.execute(HELD, [process])
        (count,) = cursor.fetchone()
        return int(count)


def lost(held: Mapping[UUID, str]) -> dict[UUID, bool]:
    """Those of these agents (agent id -> place) that were revoked (True) or connected elsewhere (False)."""
    with connection.cursor() as cursor:
        cursor.execute(LOST, [list(held), list(held.values())])
        return dict(cursor.fetchall())
