"""DATABASE_URL to Django's DATABASES entry."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from portal.env import Environment, Process, SettingsError

STATEMENT_MS = 15_000
LOCK_MS = 15_000
IDLE_IN_TRANSACTION_MS = 15_000
# A worker's transaction takes milliseconds. One that was stopped in the middle of it holds rows that people
# wait for, to cancel a rollout for one.
IDLE_IN_JOB_MS = 4_000
# The clock speaks five times a second, and leads as long as its session lasts: one that was stopped, or cut
# off, has to give way to another.
IDLE_CLOCK_MS = 5_000
# A peer that is gone without a word is noticed within half a minute, and not after two hours.
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
CONNECT_SECONDS = 5
# A worker's or clock's connection is kept between jobs: a new one costs more than a tick.
KEEP_SECONDS = 600
POOL = {"min_size": 2, "max_size": 20, "timeout": 10}


def database_config(env: Environment) -> dict[str, Any]:
    """One DATABASES entry. Without a URL it is empty, and the system check `slipway.E001` says so.

    Connections are pooled in the web process alone: a pool does not survive the forks of the worker.
    """
    config: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "CONN_HEALTH_CHECKS": True}
    options: dict[str, Any] = {
        "application_name": f"slipway-{env.process}",
        "connect_timeout": CONNECT_SECONDS,
        **KEEPALIVE,
    }
    if env.process is not Process.CLI:
        # Migrations and reports are run from the command line and may take their time.
        idle = IDLE_IN_TRANSACTION_MS if env.process is Process.WEB else IDLE_IN_JOB_MS
        options["options"] = (
            f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={LOCK_MS} "
            f"-c idle_in_transaction_session_timeout={idle}"
        )
    if env.process is Process.CLOCK:
        options["options"] += f" -c idle_session_timeout={IDLE_CLOCK_MS}"
    if env.process is Process.WEB:
        options["pool"] = POOL
    else:
        config["CONN_MAX_AGE"] = KEEP_SECONDS if env.process is not Process.CLI else 0
    if not env.database_url:
        return config | {"NAME": "", "OPTIONS": options}
    return config | _parts(env.database_url, options)


def _parts(url: str, options: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(url)
    name = unquote(parts.path.lstrip("/"))
    if parts.scheme not in {"postgres", "postgresql"} or not name:
        raise SettingsError(
            "  DATABASE_URL is not a PostgreSQL address: set it to postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    query = dict(parse_qsl(parts.query))
    return {
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        # A directory as host means the Unix socket in it, which no URL can carry before the slash.
        "HOST": query.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options | query,
    }
