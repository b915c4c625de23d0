"""What a secret server does for Slipway: hand out a token that stands for one secret, once.

A kind is one file here and one line in `registry.py` (or an entry point in the group
`slipway.secrets`). The control plane never reads a value.
"""

from typing import ClassVar, Protocol


class SecretServer(Protocol):
    name: ClassVar[str]
    """As in `${secret:NAME:PATH#KEY}`."""

    def lease(self, path: str) -> str:
        """Return a single-use token, good for a short while, that whoever holds it trades for the secret.

        Raises SecretUnavailable with a sentence that names the path, and neither token nor value.
        """
