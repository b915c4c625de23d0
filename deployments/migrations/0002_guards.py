"""The database obeys the tables of moves, and refuses to change what is immutable.

The moves stand here as they were when this migration was written; a test holds what the database has
against `deployments.domain.states`.
"""

import json

from django.db import migrations

IMMUTABLE = (
    "deployments_artifact",
    "deployments_configsnapshot",
    "deployments_release",
    "deployments_plan",
    "deployments_event",
)

MOVES = {
    "deployments_rollout": {
        "pending": ["cancelled", "failed", "queued", "superseded"],
        "queued": ["cancelled", "failed", "running", "superseded"],
        "running": ["cancelled", "failed", "paused", "rolling_back", "succeeded"],
        "paused": ["cancelled", "failed", "rolling_back", "running"],
        "rolling_back": ["failed", "rolled_back"],
        "succeeded": [],
        "rolled_back": [],
        "failed": [],
        "cancelled": [],
        "superseded": [],
    },
    "deployments_batch": {
        "pending": ["running"],
        "running": ["baking", "failed", "succeeded"],
        "baking": ["failed", "succeeded"],
        "succeeded": ["failed"],
        "failed": ["running"],
    },
    "deployments_rollouttarget": {
        "pending": ["staging"],
        "staging": ["failed", "pending", "staged"],
        "staged": ["activating", "reverting"],
        "activating": ["failed", "healthy", "reverting", "staged"],
        "healthy": ["failed", "reverting"],
        "failed": ["pending", "reverting", "staged"],
        "reverting": ["failed", "reverted"],
        "reverted": [],
    },
    "deployments_task": {
        "dispatched": ["accepted", "cancelled", "expired", "failed", "succeeded"],
        "accepted": ["cancelled", "expired", "failed", "succeeded"],
        "succeeded": [],
        "failed": [],
        "expired": [],
        "cancelled": [],
    },
}

FUNCTIONS = """
CREATE FUNCTION slipway_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Rows of % are immutable: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE FUNCTION slipway_check_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (TG_ARGV[0]::jsonb -> OLD.state) ? NEW.state THEN
        RAISE EXCEPTION '% may not move from % to %', TG_TABLE_NAME, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE SEQUENCE slipway_fence;
"""
DROP_FUNCTIONS = """
DROP SEQUENCE slipway_fence;
DROP FUNCTION slipway_check_move();
DROP FUNCTION slipway_refuse_change();
"""


def immutable(table: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER immutable BEFORE UPDATE ON {table} FOR EACH STATEMENT "
        "EXECUTE FUNCTION slipway_refuse_change()",
        f"DROP TRIGGER immutable ON {table}",
    )


def moves(table: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER moves BEFORE UPDATE OF state ON {table} FOR EACH ROW "
        f"WHEN (OLD.state IS DISTINCT FROM NEW.state) "
        f"EXECUTE FUNCTION slipway_check_move('{json.dumps(MOVES[table])}')",
        f"DROP TRIGGER moves ON {table}",
    )


class Migration(migrations.Migration):
    dependencies = [("deployments", "0001_initial")]

    operations = [
        migrations.RunSQL(FUNCTIONS, DROP_FUNCTIONS),
        *(immutable(table) for table in IMMUTABLE),
        *(moves(table) for table in MOVES),
    ]
