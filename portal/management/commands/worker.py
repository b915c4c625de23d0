"""`manage.py worker`: runs the queue's jobs."""

from typing import Any

from django.core.management.base import BaseCommand

from portal.management import cluster
from portal.management.stopping import stop_event


class Command(BaseCommand):
    help = "Run the jobs of the queue until SIGTERM; jobs in hand are finished first."

    def handle(self, *_args: Any, **_options: Any) -> None:
        cluster.run(stop_event())
