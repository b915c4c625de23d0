"""`manage.py clock`: due work, liveness of agents, lost jobs. One leader, any number in reserve."""

from typing import Any

from django.core.management.base import BaseCommand

from deployments import clock
from portal.management.stopping import stop_event


class Command(BaseCommand):
    help = "Wake what is due until SIGTERM. Several may run: one leads, the others wait."

    def handle(self, *_args: Any, **_options: Any) -> None:
        clock.run(stop_event())
