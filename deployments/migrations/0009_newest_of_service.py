"""The newest rollouts of a service, whatever the environment: without reading all that it ever had."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Rollouts may be many, and the control plane goes on meanwhile.
    atomic = False

    dependencies = [("deployments", "0008_cancel_sent")]

    operations = [
        AddIndexConcurrently(
            "rollout", models.Index(fields=["service", "-id"], name="rollout_newest_of_service")
        ),
    ]
