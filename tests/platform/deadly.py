"""Settings of a worker that dies of each tick, in the middle of it: with the lease in its hand."""

import os
import signal
from typing import Any

from django.apps import AppConfig

from portal.settings import *  # noqa: F403
from portal.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.platform.deadly.DeadlyConfig"]


class DeadlyConfig(AppConfig):
    name = "tests.platform"
    label = "deadly"

    def ready(self) -> None:
        from deployments.engine import tick

        tick.plan = die


def die(*_args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
