"""Queue, deadlines, holds, drift, quarantine, skipped targets: columns with defaults, for old processes too."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import deployments.domain.states
import deployments.models.base


class Migration(migrations.Migration):
    dependencies = [
        ("deployments", "0005_rollout_request_id"),
    ]

    operations = [
        # Rather try again than have everybody wait behind us.
        migrations.RunSQL("SET LOCAL lock_timeout = '3s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Hold",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=deployments.models.base.new_id,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), editable=False
                    ),
                ),
                ("reason", models.CharField(max_length=500)),
                ("placed_by", models.CharField(max_length=150)),
                ("lifted_at", models.DateTimeField(blank=True, null=True)),
                ("lifted_by", models.CharField(blank=True, max_length=150)),
                ("lift_reason", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "ordering": ("-id",),
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="JobFault",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("function", models.TextField()),
                ("subject", models.TextField()),
                ("error", models.CharField(max_length=500)),
                ("traceback", models.TextField()),
                ("failures", models.PositiveIntegerField(default=1)),
                ("first_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("last_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("quarantined_at", models.DateTimeField(blank=True, null=True)),
                ("released_at", models.DateTimeField(blank=True, null=True)),
                ("released_by", models.CharField(blank=True, max_length=150)),
            ],
            options={
                "ordering": ("-id",),
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="batch",
            name="deadline_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="environment",
            name="max_active",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="environment",
            name="on_drift",
            field=models.CharField(
                choices=[("show", "Show"), ("repair", "Repair")],
                db_default="show",
                default="show",
                max_length=8,
            ),
        ),
        migrations.AddField(
            model_name="environment",
            name="strategy",
            field=models.JSONField(blank=True, db_default=models.Value({}, models.JSONField()), default=dict),
        ),
        migrations.AddField(
            model_name="environment",
            name="version",
            field=models.PositiveIntegerField(db_default=1, default=1),
        ),
        migrations.AddField(
            model_name="rollout",
            name="deadline_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rollout",
            name="priority",
            field=models.PositiveSmallIntegerField(
                choices=[(0, "low"), (1, "normal"), (2, "hotfix")], db_default=1, default=1
            ),
        ),
        migrations.AddField(
            model_name="rollout",
            name="quarantined_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rollout",
            name="retries",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="retried_by",
                to="deployments.rollout",
            ),
        ),
        migrations.AddField(
            model_name="target",
            name="drift",
            field=models.CharField(blank=True, db_default="", max_length=16),
        ),
        migrations.AddField(
            model_name="target",
            name="drift_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="team",
            name="max_active",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="rollout",
            name="kind",
            field=models.CharField(
                choices=[("deploy", "Deploy"), ("rollback", "Rollback"), ("repair", "Repair")],
                default="deploy",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="rollouttarget",
            name="state",
            field=models.CharField(
                choices=[
                    ("pending", "pending"),
                    ("staging", "staging"),
                    ("staged", "staged"),
                    ("activating", "activating"),
                    ("healthy", "healthy"),
                    ("failed", "failed"),
                    ("reverting", "reverting"),
                    ("reverted", "reverted"),
                    ("skipped", "skipped"),
                ],
                default=deployments.domain.states.TargetState["PENDING"],
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="environment",
            constraint=models.CheckConstraint(
                condition=models.Q(("max_active__isnull", True), ("max_active__gt", 0), _connector="OR"),
                name="environment_max_active_not_zero",
            ),
        ),
        migrations.AddConstraint(
            model_name="team",
            constraint=models.CheckConstraint(
                condition=models.Q(("max_active__isnull", True), ("max_active__gt", 0), _connector="OR"),
                name="team_max_active_not_zero",
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="release",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="holds", to="deployments.release"
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="rollout",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="deployments.rollout",
            ),
        ),
        migrations.AddConstraint(
            model_name="jobfault",
            constraint=models.UniqueConstraint(
                condition=models.Q(("released_at__isnull", True)),
                fields=("function", "subject"),
                name="jobfault_one_open_per_subject",
            ),
        ),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.UniqueConstraint(
                condition=models.Q(("lifted_at__isnull", True)),
                fields=("release",),
                name="hold_one_open_per_release",
            ),
        ),
    ]
