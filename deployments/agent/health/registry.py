"""Kinds of health checks by name; a new one is a file here and a line below."""

import importlib
from typing import cast

from deployments.agent.errors import TaskFailure
from deployments.agent.health.base import Check

KINDS = {
    "http": "deployments.agent.health.http:check",
    "tcp": "deployments.agent.health.tcp:check",
    "exec": "deployments.agent.health.exec:check",
}


def load(kind: str) -> Check:
    """Raises TaskFailure for a kind that this agent does not have."""
    try:
        module, _, name = KINDS[kind].partition(":")
    except KeyError:
        raise TaskFailure(
            "internal", f"This agent has no health check '{kind}'; update the agent or the service."
        ) from None
    return cast(Check, getattr(importlib.import_module(module), name))
