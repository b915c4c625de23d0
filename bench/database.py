"""A PostgreSQL of the benchmark's own, durable as in production, and Django set up on it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Start PostgreSQL in a temporary directory, migrate, yield its URL, stop it."""
    from portal.local.postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as state:
        server = EmbeddedPostgres(Path(state) / "postgres", durable=True)
        os.environ.update(
            DATABASE_URL=server.start(),
            SLIPWAY_STATE_DIR=state,
            SLIPWAY_SECRET_KEY="bench-" + "0123456789abcdef" * 4,
            SLIPWAY_SIGNING_KEY="c2xpcHdheS10ZXN0LXNpZ25pbmcta2V5LTMyYnl0ZXM=",
            SLIPWAY_PUBLIC_URL="http://127.0.0.1:8000",
            SLIPWAY_LOG_LEVEL="ERROR",
            DJANGO_SETTINGS_MODULE="portal.settings",
        )
        try:
            import django
            from django.core.management import call_command

            django.setup()
            call_command("migrate", verbosity=0)
            yield os.environ["DATABASE_URL"]
        finally:
            server.stop()
