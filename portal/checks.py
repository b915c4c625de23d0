"""System checks of the configuration: each names the setting that is missing or contradicts another."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from portal.env import Environment


@register
def check_environment(**_kwargs: Any) -> list[CheckMessage]:
    return list(problems(settings.SLIPWAY))


@register(Tags.security, deploy=True)
def check_deployment(**_kwargs: Any) -> list[CheckMessage]:
    return list(deployment_problems(settings.SLIPWAY))


def problems(env: Environment) -> Iterator[CheckMessage]:
    """What keeps Slipway from working at all."""
    if not env.database_url:
        yield Error(
            "DATABASE_URL is not set, and no embedded PostgreSQL was started here.",
            hint="Set DATABASE_URL (or DATABASE_URL_FILE), or run `make up`.",
            id="slipway.E001",
        )
    if not env.secret_key:
        yield Error(
            "SLIPWAY_SECRET_KEY is not set.",
            hint="Set SLIPWAY_SECRET_KEY (or SLIPWAY_SECRET_KEY_FILE) to 50 or more random characters.",
            id="slipway.E002",
        )
    if not env.signing_key:
        yield Error(
            "SLIPWAY_SIGNING_KEY is not set: agents refuse instructions that are not signed.",
            hint="Set it (or SLIPWAY_SIGNING_KEY_FILE) to `head -c 32 /dev/urandom | base64`.",
            id="slipway.E003",
        )
    if not env.debug and not env.is_https and not env.is_loopback:
        yield Error(
            f"SLIPWAY_PUBLIC_URL is {env.public_url}: log-ins would cross the network unencrypted.",
            hint="Use an https:// address, or SLIPWAY_DEBUG=true on a network of your own.",
            id="slipway.E004",
        )
    if not _writable(env.artifact_dir):
        yield Error(
            f"SLIPWAY_ARTIFACT_DIR {env.artifact_dir} cannot be written to.",
            hint="Create it for the user that runs Slipway, or name another directory.",
            id="slipway.E005",
        )
    yield from _vault_problems(env)


def _vault_problems(env: Environment) -> Iterator[CheckMessage]:
    credentials = {"SLIPWAY_VAULT_ROLE_ID": env.vault_role_id, "SLIPWAY_VAULT_SECRET_ID": env.vault_secret_id}
    missing = [name for name, value in credentials.items() if not value]
    if env.vault_addr and missing:
        yield Error(
            f"SLIPWAY_VAULT_ADDR is set, but {' and '.join(missing)} not.",
            hint="Give Slipway an AppRole that may read the secrets of your services.",
            id="slipway.E006",
        )
    if not env.vault_addr and len(missing) < len(credentials):
        yield Error(
            "A Vault AppRole is set, but SLIPWAY_VAULT_ADDR is not.",
            hint="Set SLIPWAY_VAULT_ADDR to the address of the secret server, or remove the AppRole.",
            id="slipway.E007",
        )


def deployment_problems(env: Environment) -> Iterator[CheckMessage]:
    """What works, but should not be found in production."""
    if env.static_root is None:
        yield Warning(
            "SLIPWAY_STATIC_ROOT is not set: pages' files are served without caching for ever.",
            hint="Set it to a directory and run `manage.py collectstatic` when installing.",
            id="slipway.W001",
        )
    if env.vault_addr.startswith("http://") and not env.is_loopback:
        yield Warning(
            f"SLIPWAY_VAULT_ADDR is {env.vault_addr}: secrets would cross the network unencrypted.",
            hint="Use the https:// address of the secret server.",
            id="slipway.W002",
        )


def _writable(directory: Path) -> bool:
    """Whether the directory, or the nearest one above it that exists, can be written to."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
