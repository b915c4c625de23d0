"""Secret servers by name. A new one is one line here, or an entry point in the group `slipway.secrets`."""

import functools
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from deployments.errors import SecretUnavailable
from deployments.secrets.base import SecretServer

BUILT_IN = {
    "vault": "deployments.secrets.vault:Vault",
}


@functools.cache
def names() -> dict[str, str]:
    return BUILT_IN | {point.name: point.value for point in entry_points(group="slipway.secrets")}


@functools.cache
def get(name: str) -> SecretServer:
    """Return the server, one object a process; raises SecretUnavailable naming the known ones."""
    path = names().get(name)
    if path is None:
        raise SecretUnavailable(f"No secret server is called “{name}”. Known: {', '.join(sorted(names()))}.")
    module, _, attribute = path.partition(":")
    return cast(SecretServer, getattr(import_module(module), attribute)())
