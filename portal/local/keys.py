"""The keys of an installation, made once and kept in its state directory, where `portal.env` finds them."""

import base64
import secrets
from pathlib import Path

from portal.local.files import private_directory, write_private


def ensure_keys(state_dir: Path) -> None:
    """Make what is missing. A new key ends all sessions, and agents refuse us until they rejoin."""
    private_directory(state_dir)
    secret_key, signing_key = state_dir / "secret-key", state_dir / "signing-key"
    if not secret_key.exists():
        write_private(secret_key, secrets.token_urlsafe(64))
    if not signing_key.exists():
        write_private(signing_key, base64.b64encode(secrets.token_bytes(32)).decode())
