"""Strategies by name. A new one is one line here, or an entry point in the group `slipway.strategies`."""

import functools
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

import msgspec

from deployments.errors import Invalid
from deployments.strategies.base import Params, Strategy

BUILT_IN = {
    "rolling": "deployments.strategies.rolling:Rolling",
}


@functools.cache
def names() -> dict[str, str]:
    return BUILT_IN | {point.name: point.value for point in entry_points(group="slipway.strategies")}


@functools.cache
def get(name: str) -> Strategy:
    """Return the strategy; raises Invalid naming the known ones."""
    path = names().get(name)
    if path is None:
        raise Invalid(strategy=f"{name!r} is not known. Known: {', '.join(sorted(names()))}.")
    module, _, attribute = path.partition(":")
    return cast(Strategy, getattr(import_module(module), attribute)())


def parse(definition: dict[str, Any]) -> tuple[Strategy, Params]:
    """Read `{"name": "rolling", ...parameters}`, defaults filled in; raises Invalid naming the field."""
    fields = dict(definition)
    strategy = get(str(fields.pop("name", "rolling")))
    return strategy, read_params(strategy, fields)


def read_planned(strategy: Strategy, fields: dict[str, Any]) -> Params:
    """As `read_params`, of a plan that a newer process may have made: what is not known here is left out."""
    known = {field.name for field in msgspec.structs.fields(strategy.params)}
    return read_params(strategy, {name: value for name, value in fields.items() if name in known})


def read_params(strategy: Strategy, fields: dict[str, Any]) -> Params:
    try:
        return msgspec.convert(fields, strategy.params)
    except msgspec.ValidationError as error:
        raise Invalid(strategy=f"{strategy.name}: {error}") from None
