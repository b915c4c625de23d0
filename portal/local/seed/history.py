"""Rollouts that have ended: thrown by dice in PostgreSQL, and written there in portions, oldest first."""

from collections.abc import Iterator
from typing import Any

import msgspec
from django.db.backends.utils import CursorWrapper

from deployments.domain import canonical
from deployments.models import Membership
from deployments.strategies import registry
from portal.local.seed.ids import Kind
from portal.local.seed.size import QUIET, Size, milliseconds

PORTION = 50_000
AUDITED = 10
"""Every so many rollouts have their entry in the audit log."""

# Few services are rolled out often and many seldom. What follows in the same place cuts short what was
# before it, so that no two of a service move in an environment at once.
THROWN = """
CREATE TEMPORARY TABLE seed_history ON COMMIT DROP AS
WITH thrown AS (
    SELECT n, %(start)s::bigint
               + floor((n - 1 + pg_temp.dice(n, 1)) * %(span)s::bigint / %(count)s)::bigint AS ms,
           2 + floor(%(others)s * pg_temp.dice(n, 2) ^ 2)::int AS service,
           floor(3 * pg_temp.dice(n, 3) ^ 1.5)::int AS place,
           pg_temp.dice(n, 4) AS fate, pg_temp.dice(n, 5) AS cause, pg_temp.dice(n, 6) AS pace,
           pg_temp.dice(n, 7) AS hurry
    FROM generate_series(1, %(count)s) AS n
), ordered AS (
    SELECT *, lag(n) OVER here AS before, lag(ms) OVER here AS before_ms, lag(fate) OVER here AS before_fate,
           lead(ms) OVER here AS next_ms,
           1 + ((ms - %(start)s::bigint) * %(releases)s / %(whole)s::bigint)::int AS newest
    FROM thrown WINDOW here AS (PARTITION BY service, place ORDER BY n)
), told AS (
    SELECT *,
           CASE WHEN fate < 0.88 THEN 'succeeded' WHEN fate < 0.91 THEN 'failed' WHEN fate < 0.96 THEN
               'rolled_back' WHEN fate < 0.98 THEN 'cancelled' ELSE 'superseded' END AS state,
           CASE WHEN cause < 0.04 AND before IS NOT NULL THEN 'rollback' WHEN cause < 0.06 THEN 'repair'
               ELSE 'deploy' END AS kind,
           cause >= 0.06 AND before_fate >= 0.88 AND before_fate < 0.91 AS retries
    FROM ordered
)
SELECT n, ms, service, place, state, kind, retries AND before IS NOT NULL AS retries,
       pg_temp.seed_id(ms, %(rollout)s, n) AS id,
       pg_temp.seed_id(before_ms, %(rollout)s, before) AS before_id,
       greatest(1, newest - place - CASE WHEN kind = 'rollback' THEN 1 ELSE 0 END) AS release,
       CASE WHEN state <> 'superseded' THEN ms + 2000 END AS started_ms,
       greatest(ms + 3000, least(
           ms + 22000 + floor(pace ^ 3 * 1800000)::bigint,
           coalesce(next_ms, %(start)s::bigint + %(span)s::bigint) - 1000)) AS finished_ms,
       CASE WHEN hurry < 0.05 THEN 2 WHEN hurry < 0.1 THEN 0 ELSE 1 END AS priority,
       CASE state WHEN 'superseded' THEN 3 WHEN 'failed' THEN 5 WHEN 'rolled_back' THEN 6
           ELSE 4 END AS events,
       (%(people)s::text[])[1 + (n + service) %% %(many)s] AS by
FROM told ORDER BY n;
CREATE UNIQUE INDEX ON seed_history (n);
ANALYZE seed_history
"""

ROLLOUTS = """
INSERT INTO deployments_rollout (id, created_at, service_id, environment_id, release_id, kind, rolls_back_id,
    retries_id, priority, state, requested_by, request_id, reason, outcome, started_at, state_since,
    finished_at, event_count, lease_owner, fence, wake_again)
SELECT history.id, pg_temp.at(ms), service.id, place.environment_id,
       pg_temp.release_id(history.service, release), kind,
       CASE WHEN kind = 'rollback' THEN before_id END, CASE WHEN retries THEN before_id END, priority,
       state, history.by, '',
       CASE kind WHEN 'rollback' THEN 'Errors after the last one' WHEN 'repair' THEN 'Drift'
           ELSE 'Planned' END,
       CASE state WHEN 'succeeded' THEN 'Every batch is healthy'
                  WHEN 'failed' THEN '1 target failed; the rest was left as it is'
                  WHEN 'rolled_back' THEN 'A target did not become healthy; all are back on what ran before'
                  WHEN 'cancelled' THEN 'Not now (' || history.by || '). Nothing was changed.'
                  ELSE 'A newer rollout took its place' END,
       pg_temp.at(started_ms), pg_temp.at(finished_ms), pg_temp.at(finished_ms), events, '', 0, false
FROM seed_history history JOIN seed_service service ON service.number = history.service
JOIN (SELECT DISTINCT place, environment_id FROM seed_place) AS place USING (place)
WHERE n BETWEEN %(first)s AND %(last)s ORDER BY n
"""

# A target runs what the last rollout that succeeded there brought; one in two hundred something else.
TARGETS = """
INSERT INTO deployments_target (id, created_at, service_id, region_id, name, agent_id, variables, release_id,
    release_since, stable_release_id, health, reported, reported_at, drift, drift_since)
SELECT pg_temp.seed_id(service_ms, %(target)s, target.number), pg_temp.at(service_ms), service.id,
       target.region_id, service.name || '-' || lpad((1 + target.copy)::text, 3, '0'),
       agent.id, jsonb_build_object('port', (9000 + target.number %% 40000)::text), last.release_id,
       last.finished_at, last.release_id,
       CASE WHEN last.release_id IS NULL THEN 'unknown'
            WHEN pg_temp.dice(target.number, 30) < 0.01 THEN 'unhealthy'
            WHEN pg_temp.dice(target.number, 30) < 0.02 THEN 'unknown' ELSE 'healthy' END,
       CASE WHEN last.release_id IS NULL THEN '{}' ELSE jsonb_build_object(
           'status', 'running', 'pid', 1000 + target.number %% 30000,
           'release_id', CASE WHEN is_drifted THEN pg_temp.release_id(target.service, 1)
               ELSE last.release_id END,
           'started_at', extract(epoch FROM last.finished_at)) END,
       %(until)s, CASE WHEN is_drifted THEN 'release' ELSE '' END, CASE WHEN is_drifted THEN %(until)s END
FROM seed_target target JOIN seed_service service ON service.number = target.service
JOIN (SELECT DISTINCT place, environment_id FROM seed_place) AS place USING (place)
JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM deployments_agent) AS agent
  ON agent.number = target.number %% %(agents)s
CROSS JOIN LATERAL (SELECT pg_temp.service_ms(target.service) AS service_ms)
LEFT JOIN LATERAL (
    SELECT release_id, finished_at FROM deployments_rollout rollout
    WHERE rollout.service_id = service.id AND rollout.environment_id = place.environment_id
      AND rollout.state = 'succeeded' ORDER BY rollout.id DESC LIMIT 1) AS last ON true
CROSS JOIN LATERAL (
    SELECT last.release_id IS NOT NULL AND pg_temp.dice(target.number, 31) < 0.005
           AND last.release_id <> pg_temp.release_id(target.service, 1) AS is_drifted)
ORDER BY target.number;
ANALYZE deployments_target
"""

# In the canonical form (sorted keys, no white space), so that the digest is the true one.
PLANS = """
INSERT INTO deployments_plan (rollout_id, digest, body)
SELECT id, pg_temp.digest(body), body::jsonb FROM (
    SELECT history.id, '{"artifact_digest":"' || artifact.digest || '","config_digest":"' || config.digest
        || '","environment":"' || place.environment || '","kind":"' || history.kind
        || '","params":' || %(params)s || ',"release":"' || release.version || '","service":"' || service.name
        || '","strategy":"rolling","waves":[{"batches":[{"targets":["' || members.ids
        || '"]}],"name":"all regions"}]}' AS body
    FROM seed_history history JOIN seed_service service ON service.number = history.service
    JOIN (SELECT DISTINCT place, environment FROM seed_place) AS place USING (place)
    JOIN deployments_release release ON release.id = pg_temp.release_id(history.service, history.release)
    JOIN deployments_artifact artifact ON artifact.id = release.artifact_id
    JOIN deployments_configsnapshot config ON config.id = release.config_id
    CROSS JOIN LATERAL (
        SELECT string_agg(
            pg_temp.seed_id(pg_temp.service_ms(target.service), %(target)s, target.number)::text,
            '","' ORDER BY target.number) AS ids
        FROM seed_target target WHERE target.service = history.service AND target.place = history.place
    ) AS members
    WHERE n BETWEEN %(first)s AND %(last)s ORDER BY n) AS made
"""

WAVES = """
INSERT INTO deployments_wave (id, created_at, rollout_id, position, name)
SELECT pg_temp.seed_id(ms, %(wave)s, n), pg_temp.at(ms), id, 0, 'all regions'
FROM seed_history WHERE n BETWEEN %(first)s AND %(last)s ORDER BY n;

INSERT INTO deployments_batch (id, created_at, wave_id, rollout_id, position, state, started_at, activated_at,
    finished_at)
SELECT pg_temp.seed_id(ms, %(batch)s, n), pg_temp.at(ms), pg_temp.seed_id(ms, %(wave)s, n), id, 0,
       CASE WHEN state = 'succeeded' THEN 'succeeded' WHEN state IN ('failed', 'rolled_back') THEN 'failed'
           ELSE 'pending' END,
       CASE WHEN state IN ('succeeded', 'failed', 'rolled_back') THEN pg_temp.at(started_ms) END,
       CASE WHEN state = 'succeeded' THEN pg_temp.at(finished_ms) END,
       CASE WHEN state IN ('succeeded', 'failed', 'rolled_back') THEN pg_temp.at(finished_ms) END
FROM seed_history WHERE n BETWEEN %(first)s AND %(last)s ORDER BY n;

INSERT INTO deployments_rollouttarget (id, created_at, rollout_id, batch_id, target_id, position, state,
    state_since, attempts, previous_release_id, touched, error_code, error, log_tail)
SELECT pg_temp.seed_id(ms, %(progress)s, n * 8 + position), pg_temp.at(ms), id,
       pg_temp.seed_id(ms, %(batch)s, n), target_id, position,
       CASE WHEN state = 'failed' AND position = 0 THEN 'failed' WHEN state IN ('succeeded', 'failed') THEN
           'healthy' WHEN state = 'rolled_back' THEN 'reverted' ELSE 'pending' END,
       pg_temp.at(finished_ms), CASE WHEN state IN ('cancelled', 'superseded') THEN 0 ELSE 1 END,
       CASE WHEN release > 1 THEN pg_temp.release_id(service, release - 1) END,
       state NOT IN ('cancelled', 'superseded'),
       CASE WHEN state = 'failed' AND position = 0 THEN 'unhealthy' ELSE '' END,
       CASE WHEN state = 'failed' AND position = 0 THEN %(error)s ELSE '' END, '[]'
FROM seed_history JOIN (
    SELECT service, place, pg_temp.seed_id(pg_temp.service_ms(service), %(target)s, number) AS target_id,
           row_number() OVER (PARTITION BY service, place ORDER BY number) - 1 AS position
    FROM seed_target) AS target USING (service, place)
WHERE n BETWEEN %(first)s AND %(last)s ORDER BY n, position
"""

EVENTS = """
INSERT INTO deployments_event (rollout_id, number, at, kind, data)
SELECT history.id, row_number() OVER (PARTITION BY n ORDER BY told.number), pg_temp.at(told.ms),
       CASE WHEN told.target THEN 'target.state' WHEN told.before = '' THEN 'rollout.created'
           ELSE 'rollout.state' END,
       jsonb_build_object(
           'id', CASE WHEN told.target THEN pg_temp.seed_id(history.ms, %(progress)s, n * 8)
               ELSE history.id END,
           'name', service.name || CASE WHEN told.target THEN '-001' ELSE
               ' 1.' || release || ' to ' || place.environment END,
           'after', jsonb_build_object('state', told.after)
               || CASE WHEN told.target THEN '{"error_code": "unhealthy"}'::jsonb ELSE '{}' END)
       || CASE WHEN told.before <> '' THEN
           jsonb_build_object('before', jsonb_build_object('state', told.before)) ELSE '{}' END
       || CASE WHEN told.target THEN jsonb_build_object('reason', %(error)s::text) ELSE '{}' END
FROM seed_history history JOIN seed_service service ON service.number = history.service
JOIN (SELECT DISTINCT place, environment FROM seed_place) AS place USING (place)
CROSS JOIN LATERAL (VALUES
    (1, history.ms, '', 'pending', false, true),
    (2, history.ms + 1000, 'pending', 'queued', false, true),
    (3, history.ms + 2000, 'queued', 'superseded', false, state = 'superseded'),
    (4, started_ms, 'queued', 'running', false, state <> 'superseded'),
    (5, finished_ms, 'activating', 'failed', true, state IN ('failed', 'rolled_back')),
    (6, finished_ms, 'running', 'rolling_back', false, state = 'rolled_back'),
    (7, finished_ms, CASE state WHEN 'rolled_back' THEN 'rolling_back' ELSE 'running' END, state, false,
        state <> 'superseded')
) AS told(number, ms, before, after, target, happened)
WHERE told.happened AND n BETWEEN %(first)s AND %(last)s ORDER BY n, told.number
"""

AUDIT = """
INSERT INTO audit_entry (at, actor_kind, actor_id, actor_name, verb, object_kind, object_id, object_name,
    after, reason, request_id, address)
SELECT pg_temp.at(ms), 'user', person.id, history.by, 'rollout.create', 'rollout', history.id,
       service.name || ' 1.' || release || ' to ' || place.environment, '{"state": "pending"}', '', '',
       '192.0.2.1'
FROM seed_history history JOIN seed_service service ON service.number = history.service
JOIN (SELECT DISTINCT place, environment FROM seed_place) AS place USING (place)
JOIN accounts_user person ON person.username = history.by
WHERE n %% %(audited)s = 0 AND n BETWEEN %(first)s AND %(last)s ORDER BY n
"""
ERROR = "The health check did not pass within 30 s: 503"


def make_history(size: Size, cursor: CursorWrapper) -> Iterator[str]:
    """Yields what it makes next."""
    start, until = milliseconds(size.start), milliseconds(size.until - QUIET)
    people = Membership.objects.filter(role=Membership.Role.OWNER).order_by("user__username")
    names = list(people.values_list("user__username", flat=True))
    _, params = registry.parse({})
    values: dict[str, Any] = {kind.name.lower(): int(kind) for kind in Kind} | {
        "start": start,
        "span": until - start,
        "whole": milliseconds(size.until) - start,
        "count": size.history,
        "others": size.services - 1,
        "releases": size.releases,
        "people": names,
        "many": len(names),
        "agents": size.agents,
        "until": size.until,
        "params": canonical.canonical_json(msgspec.to_builtins(params)).decode(),
        "error": ERROR,
        "audited": AUDITED,
    }
    yield "dice"
    cursor.execute(THROWN, values)
    for portion in _portions(size):
        yield f"rollouts {portion['last']:,} of {size.history:,}"
        cursor.execute(ROLLOUTS, values | portion)
    yield "targets"
    cursor.execute("ANALYZE deployments_rollout")
    cursor.execute(TARGETS, values)
    for portion in _portions(size):
        yield f"what happened in rollouts {portion['last']:,} of {size.history:,}"
        for statement in (PLANS, WAVES, EVENTS, AUDIT):
            cursor.execute(statement, values | portion)
        if portion["first"] == 1:
            # The checks of foreign keys were planned for tables that were empty.
            cursor.execute("ANALYZE deployments_wave, deployments_batch")


def _portions(size: Size) -> Iterator[dict[str, int]]:
    for first in range(1, size.history + 1, PORTION):
        yield {"first": first, "last": min(first + PORTION - 1, size.history)}
