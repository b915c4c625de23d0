"""Which strategy and failure policy holds: environment, service, service there, request."""

from collections.abc import Mapping
from typing import Any

import msgspec

from deployments.errors import Invalid
from deployments.models import Environment, Service
from deployments.strategies import registry
from deployments.strategies.base import MAX_TARGETS, Params, check_common

OVERLAYS = "environments"


def definition(service: Service, environment: Environment, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"name": ..., ...parameters}` for a rollout of the service there; the later word counts."""
    own = dict(service.strategy)
    overlay = own.pop(OVERLAYS, {}).get(environment.name, {})
    return {**environment.strategy, **own, **overlay, **request}


def fitting(params: Mapping[str, Any], total: int) -> dict[str, Any]:
    """The parameters of an earlier plan, with counts cut to the `total` targets that are left."""
    cut = dict(params)
    for name in ("batch", "max_unavailable"):
        if isinstance(cut.get(name), int):
            cut[name] = min(cut[name], total)
    if isinstance(cut.get("max_failures"), int):
        cut["max_failures"] = min(cut["max_failures"], total - 1)
    return cut


def check_of_service(given: Any) -> dict[str, Any]:
    """Return a service's definition when it makes sense by itself, in every environment; raises Invalid."""
    whole = _object(given, "strategy", '{"name": "rolling", "batch": "25%"}')
    own = dict(whole)
    overlays = _object(own.pop(OVERLAYS, {}), f"strategy.{OVERLAYS}", '{"prod": {"bake_seconds": 600}}')
    known = set(Environment.objects.filter(name__in=list(overlays)).values_list("name", flat=True))
    for name in overlays:
        if name not in known:
            raise Invalid(strategy=f"{OVERLAYS}: there is no environment {name!r}. Create it first.")
    for overlay in ({}, *overlays.values()):
        there = _object(overlay, f"strategy.{OVERLAYS}", '{"prod": {"bake_seconds": 600}}')
        strategy, params = registry.parse({**own, **there})
        strategy.check(params, MAX_TARGETS)
    return whole


def check_of_environment(given: Any) -> dict[str, Any]:
    """Return an environment's parameters: those that every strategy understands; raises Invalid."""
    whole = _object(given, "strategy", '{"on_failure": "pause", "max_unavailable": "25%"}')
    try:
        params = msgspec.convert(whole, Params)
    except msgspec.ValidationError as error:
        raise Invalid(
            strategy=f"{error}. An environment sets what every strategy understands; batches and bake time "
            "belong to the service."
        ) from None
    check_common(params, MAX_TARGETS)
    return whole


def _object(value: Any, name: str, example: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Invalid(**{name.partition(".")[0]: f"{name} must be a JSON object like {example}"})
    return dict(value)
