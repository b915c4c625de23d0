"""How a service rolls out: the parameters that hold, in words, and where they differ by environment."""

import contextlib
import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from deployments.errors import Invalid
from deployments.models import Environment, Service
from deployments.services import policies
from deployments.strategies import registry
from deployments.strategies.base import Params, Strategy
from portal.ui.format import duration, words

Lines = list[tuple[str, object]]

SAID: dict[tuple[str, object], str] = {
    ("on_task_failure", None): "as on failure",
    ("on_unhealthy", None): "as on failure",
    ("on_timeout", None): "as on failure",
    ("max_failures", 0): "none",
    ("max_failures_per_batch", None): "no limit of its own",
    ("max_unavailable", 0): "a whole batch",
}
"""Values that say nothing by themselves."""


TITLES = {
    "silent_seconds": "silent after",
    "retry_base_seconds": "first retry within",
    "retry_max_seconds": "later retries within",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    common: Lines
    """What holds in every environment."""
    differing: Sequence[tuple[str, Lines]]
    """Environment -> what holds only there."""


def policy(service: Service, environments: Sequence[Environment]) -> Policy:
    """The service's policy in those environments; without any, the service's own."""
    if not environments:
        own = {name: value for name, value in service.strategy.items() if name != policies.OVERLAYS}
        return Policy(lines(own), ())
    found = [(one.name, lines(policies.definition(service, one, {}))) for one in environments]
    common = [line for line in found[0][1] if all(line in there for _, there in found)]
    differing = [(name, [line for line in there if line not in common]) for name, there in found]
    return Policy(common, [(name, there) for name, there in differing if there])


def lines(definition: dict[str, Any]) -> Lines:
    """A strategy with every default filled in, as rows of name and value."""
    try:
        strategy, params = registry.parse(dict(definition))
    except Invalid:
        # It was valid when it was written; a plug-in that has gone must not take the page with it.
        return list(definition.items())
    return [("strategy", strategy.name), *params_lines(_ordered(strategy, msgspec.to_builtins(params)))]


def plan_lines(plan: dict[str, Any]) -> Lines:
    """A frozen plan's strategy and parameters; the database does not keep their order."""
    name, params = plan.get("strategy", ""), plan.get("params", {})
    with contextlib.suppress(Invalid):  # a plug-in that has gone
        params = _ordered(registry.get(name), params)
    return [("strategy", name), *params_lines(params)]


def _ordered(strategy: Strategy, params: dict[str, Any]) -> dict[str, Any]:
    """What is the strategy's own first, then what all of them understand."""
    fields = strategy.params.__struct_fields__
    own = [field for field in fields if field not in Params.__struct_fields__]
    return {field: params[field] for field in (*own, *fields) if field in params} | params


def params_lines(params: dict[str, Any]) -> Lines:
    return [_line(name, value) for name, value in params.items()]


def _line(name: str, value: Any) -> tuple[str, object]:
    title = TITLES.get(name) or words(name.removesuffix("_seconds"))
    if name.endswith("_seconds") and isinstance(value, int):
        return title, duration(timedelta(seconds=value)) if value else "none"
    is_plain = value is None or isinstance(value, int | str)
    return title, SAID.get((name, value), value) if is_plain else value
