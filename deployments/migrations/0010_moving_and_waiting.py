"""Indexes of queue and drift, one moving rollout of a service, and `skipped`: while the control plane works."""

from django.contrib.postgres.operations import (
    AddConstraintNotValid,
    AddIndexConcurrently,
    ValidateConstraint,
)
from django.db import migrations, models

ACTIVE = ["paused", "pending", "queued", "rolling_back", "running"]
MOVING = ["paused", "rolling_back", "running"]
TARGET_STATES = [
    "activating",
    "failed",
    "healthy",
    "pending",
    "reverted",
    "reverting",
    "skipped",
    "staged",
    "staging",
]


class Migration(migrations.Migration):
    # Each step by itself: none locks a table for longer than a moment.
    atomic = False

    dependencies = [("deployments", "0009_newest_of_service")]

    operations = [
        AddIndexConcurrently(
            "rollout",
            models.Index(
                fields=["-priority", "id"],
                condition=models.Q(state__in=["pending", "queued"]),
                name="rollout_queue",
            ),
        ),
        AddIndexConcurrently(
            "rollout",
            models.Index(
                fields=["service", "environment"],
                condition=models.Q(state__in=ACTIVE),
                name="rollout_active",
            ),
        ),
        AddIndexConcurrently(
            "target",
            models.Index(fields=["service", "region"], condition=~models.Q(drift=""), name="target_drifted"),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "CREATE UNIQUE INDEX CONCURRENTLY rollout_one_moving "
                    "ON deployments_rollout (service_id, environment_id) "
                    "WHERE state IN ('paused', 'rolling_back', 'running')",
                    "DROP INDEX CONCURRENTLY rollout_one_moving",
                )
            ],
            state_operations=[
                migrations.AddConstraint(
                    "rollout",
                    models.UniqueConstraint(
                        fields=("service", "environment"),
                        condition=models.Q(state__in=MOVING),
                        name="rollout_one_moving",
                    ),
                )
            ],
        ),
        # Only now, so that there is no moment without one of the two.
        migrations.RemoveConstraint("rollout", "rollout_one_active"),
        migrations.RemoveConstraint("rollouttarget", "rollout_target_state_known"),
        AddConstraintNotValid(
            "rollouttarget",
            models.CheckConstraint(
                condition=models.Q(state__in=TARGET_STATES), name="rollout_target_state_known"
            ),
        ),
        ValidateConstraint("rollouttarget", "rollout_target_state_known"),
    ]
