"""A target can be left out of a rollout: the database's table of moves learns of `skipped`."""

import json

from django.db import migrations

BEFORE = {
    "pending": ["staging"],
    "staging": ["failed", "pending", "staged"],
    "staged": ["activating", "reverting"],
    "activating": ["failed", "healthy", "reverting", "staged"],
    "healthy": ["failed", "reverting"],
    "failed": ["pending", "reverting", "staged"],
    "reverting": ["failed", "reverted"],
    "reverted": [],
}
AFTER = {
    "pending": ["skipped", "staging"],
    "staging": ["failed", "pending", "skipped", "staged"],
    "staged": ["activating", "reverting", "skipped"],
    "activating": ["failed", "healthy", "reverting", "skipped", "staged"],
    "healthy": ["failed", "reverting", "skipped"],
    "failed": ["pending", "reverting", "skipped", "staged"],
    "reverting": ["failed", "reverted"],
    "reverted": [],
    "skipped": ["reverting"],
}


def trigger(moves: dict[str, list[str]]) -> str:
    return (
        "SET LOCAL lock_timeout = '3s'; DROP TRIGGER moves ON deployments_rollouttarget; "
        "CREATE TRIGGER moves BEFORE UPDATE OF state ON deployments_rollouttarget FOR EACH ROW "
        "WHEN (OLD.state IS DISTINCT FROM NEW.state) "
        f"EXECUTE FUNCTION slipway_check_move('{json.dumps(moves)}')"
    )


class Migration(migrations.Migration):
    dependencies = [("deployments", "0006_never_stuck")]

    operations = [migrations.RunSQL(trigger(AFTER), trigger(BEFORE))]
