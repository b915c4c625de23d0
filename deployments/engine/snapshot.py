"""Read one rollout as the planner sees it: one statement, one moment."""

from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection

from deployments.domain.queue import Slot
from deployments.domain.snapshot import Snapshot
from deployments.models.agents import SILENT_AFTER_HEARTBEATS

LOAD = """
SELECT json_build_object(
    'rollout_id', r.id, 'state', r.state, 'state_since', r.state_since, 'kind', r.kind,
    'outcome', r.outcome, 'created_at', r.created_at, 'deadline_at', r.deadline_at,
    'hold', (SELECT hold.reason FROM deployments_hold hold
             WHERE hold.release_id = r.release_id AND hold.lifted_at IS NULL),
    'title', s.name || ' ' || rel.version || ' to ' || e.name,
    'is_stable_here', EXISTS (
        SELECT FROM deployments_rollouttarget mine
        WHERE mine.rollout_id = r.id AND mine.previous_release_id = r.release_id),
    'strategy', p.body ->> 'strategy', 'params', p.body -> 'params', 'waiting_on', r.waiting_on,
    'batches', (
        SELECT coalesce(json_agg(json_build_object(
            'id', b.id, 'position', b.position, 'wave', w.name, 'state', b.state,
            'activated_at', b.activated_at, 'deadline_at', b.deadline_at) ORDER BY b.position), '[]')
        FROM deployments_batch b JOIN deployments_wave w ON w.id = b.wave_id WHERE b.rollout_id = r.id),
    'targets', (
        SELECT coalesce(json_agg(json_build_object(
            'id', rt.id, 'target_id', rt.target_id, 'name', t.name, 'batch', b.position,
            'state', rt.state, 'state_since', rt.state_since, 'attempts', rt.attempts,
            'retry_at', rt.retry_at, 'touched', rt.touched, 'error_code', rt.error_code,
            'error', rt.error, 'has_previous', rt.previous_release_id IS NOT NULL,
            'previous_held', EXISTS (
                SELECT FROM deployments_hold hold
                WHERE hold.release_id = rt.previous_release_id AND hold.lifted_at IS NULL),
            'health', t.health, 'reported_at', t.reported_at,
            'agent', coalesce(a.name, ''), 'agent_seen_at', a.last_seen_at,
            'agent_connected_at', a.connected_at,
            'agent_silent', coalesce(
                a.last_seen_at < clock_timestamp() - %(silent)s * interval '1 second', true),
            'reports_release', coalesce(t.reported ->> 'release_id' = r.release_id::text, false),
            'task', task.facts) ORDER BY rt.position), '[]')
        FROM deployments_rollouttarget rt
        JOIN deployments_batch b ON b.id = rt.batch_id
        JOIN deployments_target t ON t.id = rt.target_id
        LEFT JOIN deployments_agent a ON a.id = t.agent_id
        LEFT JOIN (
            SELECT DISTINCT ON (progress_id) progress_id, json_build_object(
                'id', id, 'kind', kind, 'state', state, 'attempt', attempt, 'expires_at', expires_at,
                'given_at', created_at,
                'error_code', error_code, 'error', error, 'log_tail', log_tail) AS facts
            FROM deployments_task WHERE rollout_id = r.id ORDER BY progress_id, id DESC
        ) AS task ON task.progress_id = rt.id
        WHERE rt.rollout_id = r.id)
)::text
FROM deployments_rollout r
JOIN deployments_service s ON s.id = r.service_id
JOIN deployments_environment e ON e.id = r.environment_id
JOIN deployments_release rel ON rel.id = r.release_id
JOIN deployments_plan p ON p.rollout_id = r.id
WHERE r.id = %(id)s
"""

_decoder = msgspec.json.Decoder(Snapshot)


def load(rollout_id: UUID, slot: Slot | None = None) -> Snapshot:
    """`slot` is what `slots.look` said, of a rollout that waits for one."""
    silent = SILENT_AFTER_HEARTBEATS * settings.SLIPWAY.heartbeat_seconds
    with connection.cursor() as cursor:
        cursor.execute(LOAD, {"id": rollout_id, "silent": silent})
        row = cursor.fetchone()
    assert row is not None, f"rollout {rollout_id} has no plan"
    snapshot = _decoder.decode(row[0])
    return msgspec.structs.replace(snapshot, slot=slot) if slot else snapshot
