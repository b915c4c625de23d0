"""Find what no tick came for: due timers, leases that ran out, reports that nobody took up."""

from uuid import UUID

from django.db import connection

from deployments.domain.states import ACTIVE

DUE = """
    SELECT id FROM deployments_rollout
    WHERE next_check_at <= clock_timestamp() AND quarantined_at IS NULL
      AND (lease_until IS NULL OR lease_until < clock_timestamp())
    ORDER BY next_check_at LIMIT 500
"""
LOST = """
    SELECT id FROM deployments_rollout AS r
    WHERE state = ANY(%s) AND quarantined_at IS NULL AND (
        (lease_until < clock_timestamp())
        OR waiting_on ->> 'kind' = 'engine'
           AND (waiting_on ->> 'since' IS NULL
                OR (waiting_on ->> 'since')::timestamptz < clock_timestamp() - interval '2 seconds')
           AND created_at < clock_timestamp() - interval '2 seconds'
        OR EXISTS (SELECT 1 FROM deployments_taskreport AS report
                   WHERE report.rollout_id = r.id AND report.taken_at IS NULL
                     AND report.received_at < clock_timestamp() - interval '2 seconds'))
      -- One that fails is tried again by a job of its own, after growing pauses.
      AND NOT EXISTS (SELECT FROM deployments_jobfault fault
                      WHERE fault.subject = r.id::text AND fault.released_at IS NULL)
    ORDER BY id LIMIT 500
"""


def due() -> list[UUID]:
    """Rollouts whose timer has run out."""
    return _ids(DUE, [])


def lost() -> list[UUID]:
    """Rollouts whose wake-up was lost with a process."""
    return _ids(LOST, [[state.value for state in sorted(ACTIVE)]])


def _ids(statement: str, values: list[list[str]]) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [row[0] for row in cursor.fetchall()]
