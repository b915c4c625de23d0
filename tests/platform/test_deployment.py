"""Production's settings pass Django's deployment checks, and the migrations say what the models say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def production(tmp_path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLIPWAY_", "PYTEST", "DJANGO_"))
    }
    return kept | {
        "SLIPWAY_PUBLIC_URL": "https://slipway.example.com",
        "SLIPWAY_SECRET_KEY": os.urandom(40).hex(),
        "SLIPWAY_SIGNING_KEY": os.environ["SLIPWAY_SIGNING_KEY"],
        "SLIPWAY_STATE_DIR": str(tmp_path),
        "SLIPWAY_STATIC_ROOT": str(tmp_path / "static"),
        "SLIPWAY_VAULT_ADDR": "https://vault.example.com",
        "SLIPWAY_VAULT_ROLE_ID": "slipway",
        "SLIPWAY_VAULT_SECRET_ID": "secret",
    }


def manage(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_deployment_checks_are_clean(production):
    done = manage("check", "--deploy", "--fail-level", "WARNING", environment=production)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_key_stops_every_command_with_its_name(production):
    del production["SLIPWAY_SIGNING_KEY"]
    done = manage("check", environment=production)
    assert done.returncode != 0
    assert "SLIPWAY_SIGNING_KEY is not set" in done.stderr


def test_an_unusable_environment_is_explained_without_a_traceback(production):
    done = manage("check", environment=production | {"SLIPWAY_HEARTBEAT_SECONDS": "often"})
    assert done.returncode == 1
    assert "SLIPWAY_HEARTBEAT_SECONDS is 'often': set it to a whole number of 1 or more." in done.stderr
    assert "Traceback" not in done.stderr


def test_no_migration_is_missing(production):
    done = manage("makemigrations", "--check", "--dry-run", environment=production)
    assert done.returncode == 0, done.stdout + done.stderr


def test_static_files_are_collected_under_hashed_names(production, tmp_path):
    done = manage("collectstatic", "--noinput", environment=production)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "static" / "staticfiles.json").exists()
