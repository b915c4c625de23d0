"""A release on a target: staged beside what runs, switched to, checked, and switched back."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from deployments import protocol
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import (
    SERVER,
    AgentProgram,
    alive,
    eventually,
    free_port,
    get,
    release,
    tar,
    web_release,
)


async def test_a_release_is_staged_activated_and_reported_healthy(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    spec = web_release(plane, port, "1")
    staged = await plane.do(plane.stage(spec))
    assert (staged.status, staged.code) == ("succeeded", "")
    assert await get(port) == ""
    assert not (agent.target_dir() / "current").exists()

    activated = await plane.do(plane.activate(spec))

    assert (activated.status, activated.message) == ("succeeded", "")
    assert activated.target is not None
    assert activated.target.health == "healthy"
    assert await get(port) == "1"
    assert agent.current() == spec.release_id
    await plane.until(lambda: plane.target().health == "healthy", "a heartbeat says so")
    found = plane.target()
    assert (found.status, found.release_id, found.restarts) == ("running", spec.release_id, 0)
    assert (found.artifact_digest, found.config_digest) == (spec.artifact.digest, spec.config_digest)
    assert alive(found.pid)
    assert found.started_at > 0
