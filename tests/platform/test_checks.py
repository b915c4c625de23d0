"""System checks name the setting that is missing or contradicts another one."""

import os

import pytest

from portal import env
from portal.checks import deployment_problems, problems

SOUND = {
    "SLIPWAY_SECRET_KEY": "x" * 50,
    "SLIPWAY_SIGNING_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "SLIPWAY_PUBLIC_URL": "https://slipway.example.com",
    "SLIPWAY_STATIC_ROOT": "/srv/static",
    "DATABASE_URL": "postgresql://h/db",
}


def ids(tmp_path, check=problems, **changes: str) -> list[str]:
    found = env.read({"SLIPWAY_STATE_DIR": str(tmp_path), **SOUND, **changes})
    return [message.id for message in check(found)]


def test_a_sound_environment_has_no_problems(tmp_path):
    assert ids(tmp_path) == []
    assert ids(tmp_path, deployment_problems) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"DATABASE_URL": ""}, "slipway.E001"),
        ({"SLIPWAY_SECRET_KEY": ""}, "slipway.E002"),
        ({"SLIPWAY_SIGNING_KEY": ""}, "slipway.E003"),
        ({"SLIPWAY_PUBLIC_URL": "http://slipway.example.com"}, "slipway.E004"),
        ({"SLIPWAY_VAULT_ADDR": "https://vault"}, "slipway.E006"),
        ({"SLIPWAY_VAULT_ADDR": "https://vault", "SLIPWAY_VAULT_ROLE_ID": "r"}, "slipway.E006"),
        ({"SLIPWAY_VAULT_ROLE_ID": "r", "SLIPWAY_VAULT_SECRET_ID": "s"}, "slipway.E007"),
    ],
)
def test_each_problem_is_found(tmp_path, changes, expected):
    assert ids(tmp_path, **changes) == [expected]


def test_plain_http_is_for_loopback_and_debugging(tmp_path):
    assert ids(tmp_path, SLIPWAY_PUBLIC_URL="http://127.0.0.1:8000") == []
    assert ids(tmp_path, SLIPWAY_PUBLIC_URL="http://dev.internal", SLIPWAY_DEBUG="true") == []


def test_an_artifact_directory_that_cannot_be_written_to_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    assert ids(tmp_path, SLIPWAY_ARTIFACT_DIR=str(tmp_path / "file")) == ["slipway.E005"]
    if os.geteuid() != 0:
        assert ids(tmp_path, SLIPWAY_ARTIFACT_DIR="/artifacts") == ["slipway.E005"]


def test_production_is_warned_of_uncached_files_and_an_open_vault(tmp_path):
    vault = {"SLIPWAY_VAULT_ROLE_ID": "r", "SLIPWAY_VAULT_SECRET_ID": "s"}
    found = ids(
        tmp_path, deployment_problems, SLIPWAY_STATIC_ROOT="", SLIPWAY_VAULT_ADDR="http://vault", **vault
    )
    assert found == ["slipway.W001", "slipway.W002"]
