"""Agents that fell silent: what they said of their targets counts no longer."""

from django.conf import settings
from django.db import connection, transaction

from deployments import queueing
from deployments.agents import news
from deployments.models.agents import SILENT_AFTER_HEARTBEATS

# Silent agents are few and stay silent, so their targets are found through them. Rows that others hold are
# left for the next second. Drift is left as it was: what differed when the agent was last heard of.
FALL_SILENT = """
    WITH silent AS MATERIALIZED (
        SELECT id FROM deployments_agent
        WHERE last_seen_at IS NULL OR last_seen_at < clock_timestamp() - %s * interval '1 second'
    ), gone AS (
        SELECT target.id, target.name, target.agent_id, target.health, target.reported, target.drift
        FROM deployments_target target JOIN silent ON silent.id = target.agent_id
        WHERE target.health <> 'unknown'
        ORDER BY target.id FOR NO KEY UPDATE OF target SKIP LOCKED
    ), written AS (
        UPDATE deployments_target target SET health = 'unknown' FROM gone WHERE target.id = gone.id
    )
    SELECT id, name, agent_id, health, 'unknown', coalesce(reported ->> 'status', ''), drift, drift, true
    FROM gone
"""


@transaction.atomic
def note_silence() -> int:
    """Make the health of targets unknown whose agents missed three heartbeats, and wake their rollouts.

    By the database's clock; in a constant number of statements. Returns how many targets that were.
    """
    with connection.cursor() as cursor:
        cursor.execute(FALL_SILENT, [SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds])
        turned = [news.Turn(*row) for row in cursor.fetchall()]
    for rollout_id in sorted(news.tell(turned)):
        queueing.tick(rollout_id)
    return len(turned)
