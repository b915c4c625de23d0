"""What a cancellation stops, and what it does not: no service is left half-way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments import protocol
from deployments.agent.work import uninterrupted
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, eventually, get, release, tar, web_release


def cancel(plane: FakeControlPlane, task: protocol.Instruction, **fields: Any) -> protocol.Cancel:
    values = plane.common(fence=task.fence, attempt=task.attempt) | fields
    return protocol.Cancel(**values, cancels=task.task_id)


def slow_stage(plane: FakeControlPlane) -> protocol.Stage:
    ref = plane.add(tar({"big": bytes(2_000_000)}, compress=False), bytes_per_second=200_000)
    return plane.stage(release(ref, ("cat",)))


def partial(agent: AgentProgram, stage: protocol.Stage) -> Path:
    name = stage.release.artifact.digest.removeprefix("sha256:")
    return agent.state / "cache" / "partial" / name


async def test_a_cancelled_stage_stops_and_its_download_with_it(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    stage = slow_stage(plane)
    await plane.send(stage)
    await eventually(lambda: partial(agent, stage).exists(), "the download has begun")
    await plane.send(cancel(plane, stage))
    assert (await plane.result(stage.task_id, 5)).status == "cancelled"
    # The line is free for whoever comes next, and what is there is gone on with.
    plane.artifacts[stage.release.artifact.digest].bytes_per_second = 0
    assert (await plane.do(plane.stage(stage.release))).status == "succeeded"
    assert [request[:6] for request in plane.artifacts[stage.release.artifact.digest].requests] == [
        "",
        "bytes=",
    ]


async def test_one_of_two_stages_of_an_artifact_is_cancelled_alone(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    stage = slow_stage(plane)
    artifact = plane.artifacts[stage.release.artifact.digest]
    artifact.bytes_per_second = 1_000_000
    other = plane.stage(stage.release, "t2")
    for task in (stage, other):
        await plane.send(task)
        await plane.until(lambda: plane.accepted(task.task_id))  # noqa: B023
    await plane.send(cancel(plane, stage))
    assert (await plane.result(stage.task_id)).status == "cancelled"
    assert (await plane.result(other.task_id)).status == "succeeded"
    assert len(artifact.requests) == 1


async def test_an_activation_that_waits_for_its_turn_never_begins(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    slow = protocol.HealthSpec(kind="tcp", port=1, interval_ms=50, deadline_seconds=2)
    first = plane.activate(web_release(plane, port, health=slow))
    second = plane.activate(web_release(plane, port, "2"), fence=first.fence)
    await plane.send(first)
    await plane.send(second)
    await plane.send(cancel(plane, second))
    assert (await plane.result(second.task_id)).status == "cancelled"
    assert (await plane.result(first.task_id)).status == "failed"
    assert agent.current() == first.release.release_id


async def test_an_activation_that_still_fetches_leaves_what_serves_alone(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    running = web_release(plane, port)
    await plane.do(plane.activate(running))
    pid = plane.target().pid
    ref = plane.add(tar({"big": bytes(2_000_000)}, compress=False), bytes_per_second=200_000)
    activation = plane.activate(release(ref, ("cat",)))
    await plane.send(activation)
    await plane.until(lambda: plane.accepted(activation.task_id))
    await plane.send(cancel(plane, activation))
    report = await plane.result(activation.task_id, 5)
    assert report.status == "cancelled"
    assert report.target is not None
    assert (report.target.release_id, report.target.pid) == (running.release_id, pid or report.target.pid)
    assert agent.current() == running.release_id
    assert await get(port) == "1"


async def test_an_activation_that_has_begun_to_switch_runs_to_its_end(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    """While the old service takes its time to stop, and while the new one is not healthy yet."""
    stubborn = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n"
    old = release(
        plane.add(tar({"run": stubborn})),
        ("./run",),
        process=protocol.ProcessSpec(command=("./run",), stop_seconds=2),
    )
    await plane.do(plane.activate(old))
    marker = agent.state.parent / "well"
    health = protocol.HealthSpec(kind="exec", command=("test", "-e", str(marker)), interval_ms=50)
    activation = plane.activate(web_release(plane, port, "2", health=health))
    await plane.send(activation)
    await eventually(lambda: bool(list(agent.target_dir().glob(".process.json.*"))), "the switch has begun")
    await plane.send(cancel(plane, activation))
    await eventually(lambda: agent.current() == activation.release.release_id, "it goes on")
    await plane.send(cancel(plane, activation))
    await eventually(lambda: agent.log.count("is not cancelled") == 2, "both came too late")
    assert plane.results(activation.task_id) == []
    marker.touch()
    assert (await plane.result(activation.task_id)).status == "succeeded"
    assert agent.current() == activation.release.release_id


async def test_newer_tasks_do_not_tear_a_switch_in_half(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    """While the old service takes its time to stop, one newer task comes after the other."""
    stubborn = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n"
    old = release(
        plane.add(tar({"run": stubborn})),
        ("./run",),
        process=protocol.ProcessSpec(command=("./run",), stop_seconds=3),
    )
    await plane.do(plane.activate(old))
    activation = plane.activate(web_release(plane, port, "2"))
    await plane.send(activation)
    await eventually(lambda: bool(list(agent.target_dir().glob(".process.json.*"))), "the switch has begun")
    newer = [plane.stage(activation.release) for _ in range(3)]
    for stage in newer:
        await plane.send(stage)
        await eventually(lambda: stage.task_id in agent.log or plane.accepted(stage.task_id), "it came")  # noqa: B023
    assert (await plane.result(activation.task_id)).status == "cancelled"
    assert (await plane.result(newer[-1].task_id)).status == "succeeded"
    assert agent.current() == activation.release.release_id
    await plane.until(lambda: plane.target().status == "running", "the service runs")
    assert plane.target().release_id == activation.release.release_id
    assert await get(port) == "2"


async def test_work_that_must_not_be_interrupted_is_finished_however_often_it_is_cancelled() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.append("done")

    task = asyncio.create_task(uninterrupted(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["done"]


async def test_a_cancellation_makes_no_target(plane: FakeControlPlane, agent: AgentProgram) -> None:
    """Also not where its directory cannot be made: that must not break the connection."""
    agent.target_dir("t2").write_text("in the way")
    tasks = [plane.stage(release(plane.add(tar({"a": "1"})), ("cat",)), "t2") for _ in range(5)]
    for task in tasks:
        await plane.send(task)
        await plane.send(cancel(plane, task))
    for task in tasks:
        assert (await plane.result(task.task_id)).status in ("cancelled", "failed")
    assert len(plane.hellos) == 1


async def test_a_task_that_a_killed_agent_left_open_is_closed(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    stage = slow_stage(plane)
    await plane.send(stage)
    await plane.until(lambda: plane.accepted(stage.task_id))
    await agent.kill()
    await agent.start()
    assert plane.hellos[-1].open_tasks == (stage.task_id,)
    for _ in range(2):
        await plane.send(cancel(plane, stage))
    assert (await plane.result(stage.task_id)).status == "cancelled"
    await plane.drop()
    await plane.until(lambda: len(plane.hellos) == 3)
    assert plane.hellos[-1].open_tasks == ()


async def test_a_cancellation_of_nothing_changes_nothing(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    activation = plane.activate(web_release(plane, port))
    done = await plane.do(activation)
    for fields in ({}, {"agent_id": "somebody-else"}, {"expires_at": 1.0}):
        await plane.send(cancel(plane, activation, **fields))
    unknown = protocol.Cancel(**plane.common(), cancels="task-unknown")
    await plane.send(unknown)
    beats = len(plane.heartbeats)
    await plane.until(lambda: len(plane.heartbeats) > beats + 1)
    await asyncio.sleep(0)
    assert plane.results(activation.task_id) == [done]
    assert {report.task_id for report in plane.reports} == {activation.task_id}, "it is not answered"
    assert await get(port) == "1"
