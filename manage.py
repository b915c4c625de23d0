#!/usr/bin/env python
"""Entry point of every control-plane command: `manage.py web`, `worker`, `clock`, `migrate`, and so on."""

import os
import sys

PROCESSES = ("web", "worker", "clock")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    # Settings differ by process (only the web process may pool connections), and they are read before
    # the command's own code runs: so the command's name decides here.
    if len(sys.argv) > 1 and sys.argv[1] in PROCESSES:
        os.environ.setdefault("SLIPWAY_PROCESS", sys.argv[1])

    from django.core.management import execute_from_command_line

    from portal.env import SettingsError

    try:
        execute_from_command_line(sys.argv)
    except SettingsError as error:
        sys.exit(f"Slipway cannot start with this environment:\n{error}")


if __name__ == "__main__":
    main()
