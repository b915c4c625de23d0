"""When an agent was told to give a task up, and an index that finds those who are still to be told."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Tasks may be many, and the control plane goes on meanwhile.
    atomic = False

    dependencies = [("deployments", "0007_skipped_targets")]

    operations = [
        migrations.AddField(
            model_name="task",
            name="cancel_sent_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        AddIndexConcurrently(
            model_name="task",
            index=models.Index(
                condition=models.Q(("state", "cancelled")),
                fields=["agent", "expires_at"],
                name="task_cancelled",
            ),
        ),
    ]
