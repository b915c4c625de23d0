"""Who the agent is: its own Ed25519 key, its id, and the key of the control plane that it obeys."""

import base64
import binascii
import time
from dataclasses import dataclass

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from deployments import protocol
from deployments.agent.errors import CannotStart
from deployments.agent.state import StateDir, write_atomic


class _Stored(msgspec.Struct, frozen=True):
    agent_id: str
    server: str
    control_key: str


@dataclass(frozen=True)
class Identity:
    agent_id: str
    server: str
    key: SigningKey
    control_key: VerifyKey

    def sign_hello(self, nonce: str) -> str:
        signed = self.key.sign(protocol.hello_bytes(nonce, self.agent_id))
        return base64.b64encode(signed.signature).decode()

    def authorization(self, method: str, path: str) -> str:
        timestamp = str(int(time.time()))
        signed = self.key.sign(protocol.request_bytes(method, path, timestamp, self.agent_id))
        return protocol.authorization_header(self.agent_id, timestamp, signed.signature)

    def is_from_control_plane(self, body: str, signature: str) -> bool:
        try:
            self.control_key.verify(body.encode(), base64.b64decode(signature, validate=True))
        except (BadSignatureError, ValueError, binascii.Error):
            return False
        return True


def load_key(state: StateDir) -> SigningKey:
    """The agent's key, made at the first start; raises CannotStart."""
    try:
        if not state.key.exists():
            write_atomic(state.key, bytes(SigningKey.generate()), mode=0o600)
        return SigningKey(state.key.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotStart(f"The key {state.key} cannot be used ({error}).") from None


def load(state: StateDir, server: str) -> Identity | None:
    """The identity of an enrolled agent, None before enrolment; raises CannotStart."""
    if not state.identity.exists():
        return None
    try:
        stored = msgspec.json.decode(state.identity.read_bytes(), type=_Stored)
        control_key = VerifyKey(base64.b64decode(stored.control_key, validate=True))
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise CannotStart(
            f"{state.identity} cannot be read ({error}). Enrol again with a new join token and an empty "
            "state directory."
        ) from None
    return Identity(stored.agent_id, server or stored.server, load_key(state), control_key)


def save(state: StateDir, *, agent_id: str, server: str, control_key: str) -> None:
    """Remember what enrolment answered; raises ValueError for a key that is none, OSError."""
    VerifyKey(base64.b64decode(control_key, validate=True))
    stored = _Stored(agent_id=agent_id, server=server, control_key=control_key)
    write_atomic(state.identity, msgspec.json.encode(stored))
