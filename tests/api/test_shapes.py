"""What is written is what the library would write."""

from typing import Any

import pytest
from rest_framework import serializers

from deployments.models import Agent, Rollout, Service, Target
from portal.api.agents import AgentOut
from portal.api.progress import ProgressOut
from portal.api.queue import QueueOut
from portal.api.rollouts import ROLLOUTS, RolloutOut
from portal.api.shapes import Out
from portal.api.targets import TargetOut
from tests.engine.driver import Driver
from tests.fixtures import Person, World


@pytest.fixture
def as_the_library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`as_the_library(shape, row)`: written without our shortcut."""

    def _written(shape: type[Out], row: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(Out, "to_representation", serializers.Serializer.to_representation)
            return shape(row).data

    return _written


@pytest.fixture
def moving(catalog: World, owner: Person, orders: Service) -> Rollout:
    driver = Driver(catalog, owner)
    return driver.tick(driver.start(orders, "1.0"))


def test_rows_look_as_the_library_writes_them(as_the_library: Any, moving: Rollout) -> None:
    target = Target.objects.select_related("service", "agent", "release").get(name="orders-01")
    target.drift, target.drift_since = "process", moving.created_at
    new = Target(service=target.service, region=target.region, name="new", created_at=moving.created_at)
    rows: list[tuple[type[Out], Any]] = [
        (RolloutOut, ROLLOUTS.get(pk=moving.pk)),
        (TargetOut, target),
        (ProgressOut, moving.targets.get(target=target)),
        (AgentOut, Agent.objects.get(name="agent-1")),
        (TargetOut, new),
    ]
    for shape, row in rows:
        assert dict(shape(row).data) == dict(as_the_library(shape, row))


def test_a_mapping_is_read_by_its_keys() -> None:
    assert QueueOut({"environments": []}).data == {"environments": []}


def test_a_field_that_is_not_there_is_an_error_that_names_it() -> None:
    class Shape(Out):
        nothing = serializers.CharField()

    with pytest.raises(AttributeError, match="nothing"):
        _ = Shape(object()).data
