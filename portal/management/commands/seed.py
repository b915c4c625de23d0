"""`manage.py seed`: a database full of plausible rows, the same for the same arguments."""

import time
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.local.seed.catalog import MEMBER
from portal.local.seed.make import NotEmpty, count_rows, make_all
from portal.local.seed.size import Size


class Command(BaseCommand):
    help = "Fill an empty database with services, targets, releases and rollouts, for measurements."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--services", type=int, default=100, help="services (default %(default)s)")
        parser.add_argument("--rollouts", type=int, default=2000, help="rollouts (default %(default)s)")
        parser.add_argument(
            "--targets", type=int, default=1000, help="targets in the largest rollout (default %(default)s)"
        )
        parser.add_argument(
            "--history-days", type=int, default=365, help="days that they spread over (default %(default)s)"
        )
        parser.add_argument(
            "--seed", type=int, default=1, help="another seed, other rows (default %(default)s)"
        )
        parser.add_argument(
            "--until", type=_moment, help="UTC day at whose start the history ends (default: today)"
        )
        parser.add_argument("--yes", action="store_true", help="also where this is no local installation")

    def handle(self, *_args: Any, **options: Any) -> None:
        env = settings.SLIPWAY
        if not (env.debug or env.is_loopback or options["yes"]):
            raise CommandError(
                f"This looks like production ({env.public_url}). Seed a database of your own, or add --yes."
            )
        size = Size(
            services=options["services"],
            rollouts=options["rollouts"],
            targets=options["targets"],
            history_days=options["history_days"],
            seed=options["seed"],
            until=options["until"] or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0),
        )
        if problem := size.problem():
            raise CommandError(problem)
        began = time.monotonic()
        try:
            for what in make_all(size):
                self._say(began, what)
        except NotEmpty as error:
            raise CommandError(str(error)) from None
        self._say(began, "done")
        for name, count in count_rows().items():
            self.stdout.write(f"{count:>12,} {name}")
        self.stdout.write(
            f"{size.rollouts / (time.monotonic() - began):,.0f} rollouts a second. "
            f"To look at it: manage.py createsuperuser; {MEMBER} is in the first team alone."
        )

    def _say(self, began: float, what: str) -> None:
        if self.verbosity:
            self.stdout.write(f"{time.monotonic() - began:7.1f} s  {what}")
            self.stdout.flush()

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.verbosity = int(options["verbosity"])
        return super().execute(*args, **options)


def _moment(text: str) -> datetime:
    """Argparse names the value that raises ValueError here."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
