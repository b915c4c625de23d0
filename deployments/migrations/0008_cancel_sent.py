"""When an agent was told to give a task up, and an index that finds those who are still to be told."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("deployments", "0007_skipped_targets")]

    operations = [
        migrations.AddField(
            model_name="task",
            name="cancel_sent_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("state", "cancelled")),
                fields=["agent", "expires_at"],
                name="task_cancelled",
            ),
        ),
    ]
