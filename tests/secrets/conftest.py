"""A real OpenBao (the open fork of Vault), with one secret and an AppRole that may read a part of it."""

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests

MOUNT = "secret"
POLICY = f"""
path "{MOUNT}/data/shop/*" {{ capabilities = ["read"] }}
"""


@dataclasses.dataclass(frozen=True)
class Bao:
    address: str
    root: hvac.Client
    role_id: str

    def secret_id(self) -> str:
        return self.root.auth.approle.generate_secret_id("slipway")["data"]["secret_id"]

    def write(self, path: str, **values: str) -> None:
        self.root.secrets.kv.v2.create_or_update_secret(path=path, secret=values, mount_point=MOUNT)

    def unwrap(self, token: str) -> dict[str, Any]:
        """What the agent does with a lease."""
        return hvac.Client(url=self.address, token=token).sys.unwrap()["data"]["data"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("bao") / "log"
    program = Path(sys.executable).with_name("bao")
    command = [
        str(program),
        "server",
        "-dev",
        "-dev-root-token-id=root",
        f"-dev-listen-address=127.0.0.1:{port}",
        "-dev-no-store-token",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield prepared(address, process, log)
        finally:
            process.terminate()
            process.wait(10)


def prepared(address: str, process: subprocess.Popen[bytes], log: Path) -> Bao:
    root = hvac.Client(url=address, token="root")
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if root.sys.is_initialized():
                break
        except requests.RequestException:
            time.sleep(0.05)
    root.sys.enable_auth_method("approle")
    root.sys.create_or_update_policy("slipway", POLICY)
    root.auth.approle.create_or_update_approle("slipway", token_policies=["slipway"], token_ttl="1h")
    role_id = root.auth.approle.read_role_id("slipway")["data"]["role_id"]
    bao = Bao(address, root, role_id)
    bao.write("shop/orders/db", password="s3cret-of-the-database", user="orders")
    bao.write("shop/orders/mail", key="s3cret-of-the-mail")
    bao.write("other/bills/db", password="not-for-slipway")
    return bao


@pytest.fixture
def configured(bao: Bao, settings: Any) -> Bao:
    """Slipway, set up to use it."""
    settings.SLIPWAY = dataclasses.replace(
        settings.SLIPWAY,
        vault_addr=bao.address,
        vault_agent_addr=bao.address,
        vault_role_id=bao.role_id,
        vault_secret_id=bao.secret_id(),
        vault_mount=MOUNT,
    )
    return bao
