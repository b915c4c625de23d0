"""A control plane, an agent that is connected to it, and a port for its service."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, free_port


@pytest.fixture
async def plane() -> AsyncIterator[FakeControlPlane]:
    plane = FakeControlPlane()
    plane.targets = {"t1": "shop-1"}
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def program(plane: FakeControlPlane, tmp_path: Path) -> Iterator[AgentProgram]:
    """An agent that is not started yet."""
    program = AgentProgram(plane, tmp_path)
    yield program
    program.clean_up()


@pytest.fixture
async def agent(program: AgentProgram) -> AgentProgram:
    """An agent that is enrolled and connected."""
    await program.start()
    return program


@pytest.fixture
def port() -> int:
    return free_port()
