"""The control plane's key: what is signed with it, agents obey. Agents' signatures are checked here too."""

import base64
import binascii
import functools

from django.conf import settings
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from deployments import protocol


@functools.cache
def _key() -> SigningKey:
    return SigningKey(settings.SLIPWAY.signing_key)


def public_key() -> str:
    """The control plane's Ed25519 public key in base64: an agent learns it when it enrols."""
    return base64.b64encode(bytes(_key().verify_key)).decode()


def sign(instruction: protocol.Instruction) -> str:
    """Return the frame of a `Signed` envelope around `instruction`."""
    body = protocol.encode(instruction)
    signature = _key().sign(body.encode()).signature
    return protocol.encode(protocol.Signed(body=body, signature=base64.b64encode(signature).decode()))


def is_signed_by(public_key: bytes, message: bytes, signature: str) -> bool:
    """Whether `signature` (base64) over `message` was made with the private half of `public_key`."""
    try:
        VerifyKey(public_key).verify(message, base64.b64decode(signature, validate=True))
    except (BadSignatureError, ValueError, TypeError, binascii.Error):
        return False
    return True
