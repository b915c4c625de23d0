"""Runtimes by name: those below, and those of the entry point group `slipway.agent_runtimes`."""

import importlib
from typing import cast

from deployments.agent.errors import TaskFailure
from deployments.agent.runtimes.base import Runtime

GROUP = "slipway.agent_runtimes"
RUNTIMES = {"process": "deployments.agent.runtimes.process:ProcessRuntime"}

_loaded: dict[str, Runtime] = {}


def load(name: str) -> Runtime:
    """The runtime of that name; raises TaskFailure `unsupported_runtime`."""
    runtime = _loaded.get(name)
    if runtime is None:
        runtime = _loaded[name] = _find(name)
    return runtime


def _find(name: str) -> Runtime:
    path = RUNTIMES.get(name)
    if path is not None:
        module, _, attribute = path.partition(":")
        return cast(Runtime, getattr(importlib.import_module(module), attribute)())
    # Imported late: it costs a megabyte, and most agents run processes only.
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=GROUP, name=name):
        return cast(Runtime, entry_point.load()())
    raise TaskFailure(
        "unsupported_runtime",
        f"This agent has no runtime '{name}'. Install it beside the agent (entry point group {GROUP}) or "
        "choose another runtime for the service.",
    )
